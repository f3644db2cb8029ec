"""The filters and functions of chat templates: Jinja's harmless ones, and bounded versions of those that can be expensive.

Behaviour follows transformers: `tojson` neither escapes HTML nor non-ASCII text, `strftime_now`, `raise_exception`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter
from jinja2.sandbox import safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from ordito.errors import TemplateError
from ordito.text.budget import Budget, budget

_PLAIN = (
    "abs capitalize count d default dictsort e escape first float groupby int items last length list lower map max "
    "min reject rejectattr reverse safe select selectattr sort string title truncate unique upper wordcount"
)
_MAX_WIDTH = 1000  # of indentation, centring, rounding
# A width or precision of five digits or more, or one taken from the arguments. A key in parentheses may hold anything,
# so that what comes before the digits is not looked at.
_WIDE = re.compile(r"\d{5}(\d|\.)*[hlL]*[a-zA-Z%]|%[#0\- +]*\d*\.?\*")


def bounded_join(current: Budget, separator: str, parts: Iterable[Any]) -> str:
    """`separator.join(parts)`; raises `LimitError`, before the text is made, if it is too long."""
    texts: list[Any] = []
    total = 0
    for part in parts:
        current.tick()
        total += len(separator) + len(part) if isinstance(part, str) else 0
        current.room(total)
        texts.append(part)
    joined: str = current.admit(separator.join(texts))
    return joined


def bounded_replace(current: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    """`text.replace(old, new, count)`; raises `LimitError`, before the text is made, if it may be too long."""
    current.room(len(text) + text.count(old) * max(0, len(new) - len(old)))
    replaced: str = current.admit(text.replace(old, new, count))
    return replaced


def bounded_search(current: Budget, text: str, *arguments: Any) -> None:
    """Raise `LimitError` if a search in `text` that takes time proportional to the product of both lengths is too slow."""
    longest = max((len(argument) for argument in arguments if isinstance(argument, str)), default=0)
    if len(text) * longest > 100 * current.largest:
        current.refuse("it searches a long text backwards for another long text")


def bounded_percent(current: Budget, text: str, values: Any) -> str:
    """`text % values`; raises `LimitError`, before the text is made, for a huge width or if it may be too long."""
    if _WIDE.search(text):
        current.refuse("it formats with a width of more than 9,999")
    widest = max((int(n) for n in re.findall(r"\d{1,4}", text)), default=0)
    current.room(len(text) + text.count("%") * (current.weigh(values) + widest))
    return str(current.admit(text % values))


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return bounded_join(budget(), str(d), map(str, value))


def _replace(s: str, old: str, new: str, count: int | None = None) -> str:
    return bounded_replace(budget(), str(s), str(old), str(new), -1 if count is None else count)


def _trim(value: Any, chars: str | None = None) -> str:
    bounded_search(budget(), str(value), chars)
    trimmed: str = JINJA_FILTERS["trim"](value, chars)
    return trimmed


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    return bounded_percent(budget(), str(value), kwargs or args)


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    wide = len(width) if isinstance(width, str) else int(width)
    _narrow(wide)
    budget().room(len(s) + wide * (len(str(s).splitlines()) + 1))
    return str(JINJA_FILTERS["indent"](s, width, first, blank))


def _center(value: str, width: int = 80) -> str:
    _narrow(width)
    return str(value).center(width)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    _narrow(abs(precision) * 10)
    return float(JINJA_FILTERS["round"](value, precision, method))


@pass_environment
def _sum(environment: Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):  # the sum of many lists copies each of them again and again
        budget().refuse("it sums what are not numbers")
    return JINJA_FILTERS["sum"](environment, iterable, attribute, start)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None:
        _narrow(len(indent) if isinstance(indent, str) else int(indent))
    if separators is not None:
        _narrow(max(map(len, separators)) * 100)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(x)
    # Indentation is depth times elements: encoded piece by piece, it is stopped when it grows too long.
    return bounded_join(budget(), "", encoder.iterencode(x))


def _narrow(width: int) -> None:
    if width > _MAX_WIDTH:
        budget().refuse(f"it pads or indents by {width:,}, of at most {_MAX_WIDTH:,}")


def raise_exception(message: object) -> NoReturn:
    """The function by which a template refuses a conversation: its message is shown to the user."""
    raise TemplateError(f"the chat template refuses this conversation: {str(message)[:1000]}")


def strftime_now(format: str) -> str:
    """The current date and time in the template's format; padding widths, which the C library would honour, are refused."""
    if len(format) > 200 or re.search(r"%[^a-zA-Z%]*\d", format):
        budget().refuse("it formats a date with a width")
    return datetime.now().strftime(format)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore, and printed without its contents.

    These can change after it was admitted, so that printing them could not be bounded.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:
        attrs = dict(*args[1:], **kwargs)
        for name in attrs:
            _check_name(name)
        Namespace.__init__(args[0], attrs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"{name!r} cannot be the name of a namespace's attribute")


FILTERS: dict[str, Callable[..., Any]] = {name: JINJA_FILTERS[name] for name in _PLAIN.split()} | {
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
}

GLOBALS: dict[str, Any] = {
    "cycler": Cycler,
    "dict": _dict,
    "joiner": Joiner,
    "namespace": _Namespace,
    "raise_exception": raise_exception,
    "range": safe_range,
    "strftime_now": strftime_now,
}
