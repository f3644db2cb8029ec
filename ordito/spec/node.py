"""The base classes of a spec: frozen records that validate their fields and are converted to JSON and back."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ordito.errors import SpecError, did_you_mean

Shape = tuple[int, ...]
Size = Annotated[int, 1]
"""A whole number of at least one: a width, a count of heads, a vocabulary."""
Count = Annotated[int, 0]
"""A whole number of at least zero."""


@dataclass(frozen=True)
class Node:
    """A frozen record of a spec. Construction checks all fields against their annotations, and raises `SpecError`."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if not _fits(value, hint):
                raise SpecError(f"{type(self).__name__}.{name}: got {value!r}, expected {_describe(hint)}")
        self.check()

    def check(self) -> None:
        """Raise `SpecError` if fields, each valid by itself, contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """This record as JSON values: the class's name under `node`, then every field that differs from its default."""
        shown = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default}
        return {"node": type(self).__name__, **shown}


@dataclass(frozen=True)
class Block(Node):
    """A part of a model that maps hidden states (B, T, d_in) to hidden states (B, T, d_out)."""

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Names, relative to the path of this block's parent, and shapes of its tensors."""
        raise NotImplementedError

    def width_after(self, width: int | None) -> int | None:
        """d_out for an input of `width` channels (None: token ids). Raises `SpecError` if this block does not accept it."""
        raise NotImplementedError


def from_dict(data: Any, where: str = "spec") -> Any:
    """The inverse of `Node.to_dict`. Raises `SpecError` for unknown nodes, unknown fields and wrong values."""
    if isinstance(data, list):
        return tuple(from_dict(item, f"{where}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    kinds = _node_classes()
    kind = data.get("node")
    if kind not in kinds:
        raise SpecError(f"{where}: unknown node {kind!r}, expected one of {sorted(kinds)}{did_you_mean(str(kind), kinds)}")
    names = {f.name for f in fields(kinds[kind])}
    needed = {f.name for f in fields(kinds[kind]) if f.default is MISSING}
    values = {key: from_dict(value, f"{where}.{key}") for key, value in data.items() if key != "node"}
    if unknown := sorted(values.keys() - names):
        raise SpecError(f"{where}: {kind} has no field {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    if lacking := sorted(needed - values.keys()):
        raise SpecError(f"{where}: {kind} lacks the field {lacking[0]!r}")
    if set(values) == {"parts"}:
        return kinds[kind](*values["parts"])
    return kinds[kind](**values)


def _node_classes() -> dict[str, type[Node]]:
    found: dict[str, type[Node]] = {}
    queue: list[type[Node]] = [Node]
    while queue:
        for kind in queue.pop().__subclasses__():
            queue.append(kind)
            found[kind.__name__] = kind
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@cache
def _hints(kind: type[Node]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Annotated:
        return _fits(value, arguments[0]) and value >= arguments[1]
    if origin is Literal:
        return any(value is option or (isinstance(value, str) and value == option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Annotated:
        return f"a whole number of at least {arguments[1]}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"a tuple of {_describe(arguments[0])}"
    return {float: "a finite number", type(None): "None"}.get(hint, f"a {hint.__name__}")
