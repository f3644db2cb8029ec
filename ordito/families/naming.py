"""Names of tensors in other formats: one table for a family and a format, read in both directions.

A table maps our path of a module to theirs, `{}` standing for the number of a layer:
`"layers.{}.attention.q": "model.layers.{}.self_attn.q_proj"`. What comes after the module (`.weight`, `.bias`) is the same
on both sides. Where the numbers differ too, a transform says how; each has an inverse, so the table imports and exports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ordito.errors import SpecError
from ordito.spec import Spec


class Transform(Protocol):
    """A change between their array and ours, with its inverse. Arrays need reshape, swapaxes and arithmetic only."""

    def ours(self, array: Any) -> Any:
        """Their array as ours."""

    def theirs(self, array: Any) -> Any:
        """Our array as theirs."""


@dataclass(frozen=True)
class Shifted:
    """They store `by` more than we do: GGUF stores Gemma's norm weights as 1 + w."""

    by: float

    def ours(self, array: Any) -> Any:
        """their - by."""
        return array - array.dtype.type(self.by)

    def theirs(self, array: Any) -> Any:
        """our + by."""
        return array + array.dtype.type(self.by)


@dataclass(frozen=True)
class InterleavedRope:
    """They pair rotary channels (2i, 2i + 1), we pair (i, i + H/2): rows of q and k, (heads * H, ...), change places."""

    heads: int

    def ours(self, array: Any) -> Any:
        """(heads, H/2, 2, ...) -> (heads, 2, H/2, ...)."""
        shape = array.shape
        return array.reshape(self.heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)

    def theirs(self, array: Any) -> Any:
        """(heads, 2, H/2, ...) -> (heads, H/2, 2, ...)."""
        shape = array.shape
        return array.reshape(self.heads, 2, -1, *shape[1:]).swapaxes(1, 2).reshape(shape)


@dataclass(frozen=True)
class Binding:
    """One tensor under both names, with the change between them (None: the same numbers)."""

    ours: str
    theirs: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Names:
    """A family's table of names in one format.

    `table`: our module -> theirs. `transform(spec, our_tensor_name)`: the change of that tensor's numbers, if any.
    `aliases`: (pattern, replacement) pairs that bring the spellings of a name in the wild to the one in the table.
    `ignored`: pattern -> why a tensor that matches it need not be read.
    """

    table: Mapping[str, str]
    transform: Callable[[Spec, str], Transform | None] = lambda spec, name: None
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)

    def bindings(self, spec: Spec) -> list[Binding]:
        """A binding for every tensor of `spec`. Raises `SpecError` if the format has no name for one."""
        return [Binding(name, self.theirs(name), self.transform(spec, name)) for name in spec.tensors()]

    def theirs(self, name: str) -> str:
        """Their name of our tensor."""
        module, _, parameter = name.rpartition(".")
        number = re.search(r"\.(\d+)\.", module)
        pattern = module.replace(number[0], ".{}.", 1) if number else module
        if pattern not in self.table:
            raise SpecError(f"this format has no name for the tensor {name!r}")
        return f"{self.table[pattern].format(number[1] if number else '')}.{parameter}"

    def usual(self, name: str) -> str:
        """The spelling of the table for a name as a file spells it."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def why_ignored(self, name: str) -> str | None:
        """The reason why a tensor need not be read, or None if there is none."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)
