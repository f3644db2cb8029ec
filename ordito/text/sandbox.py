"""The sandbox of chat templates: Jinja's immutable one, configured as in transformers, with a budget of time and memory.

Jinja's sandbox keeps templates from reaching Python, but does not limit their cost. Here the syntax tree is rewritten before it
is compiled, so that each loop step, comparison, literal, slice and concatenation is charged to the budget; operators, calls,
filters, tests and attribute look-ups are charged in the sandbox's hooks. Attributes are allowed by type and name: others do
not exist.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.utils import Cycler, Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from ordito.errors import TemplateError
from ordito.text.budget import budget
from ordito.text.filters import FILTERS, GLOBALS, bounded_join, bounded_percent, bounded_replace, bounded_search

MAX_SOURCE = 60_000  # characters; the longest published template has a third of it
_MAX_COMPARISONS = 8  # in one chain: a < b < c
_MAX_BITS = 4096  # of an integer

# Names of the filters that the rewriting inserts. They contain a space, so that no template can write them.
_TICK, _SPEND, _ADMIT, _CONCAT, _KEY = "step tick", "step spend", "step admit", "step concat", "step key"

# Methods of strings that may take time proportional to the product of the lengths of string and argument.
_SLOW = frozenset({"rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip"})

_ALLOWED_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock),
    *(nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Continue, nodes.Scope),
    *(nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat),
    *(nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr),
)

_SAFE_ATTRIBUTES: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit "
        "isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith "
        "strip swapcase title upper zfill".split()
    ),
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    list: frozenset({"index", "count", "copy"}),
    tuple: frozenset({"index", "count"}),
    LoopContext: frozenset(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0".split()
    ),
    Macro: frozenset({"name", "arguments", "caller", "catch_kwargs", "catch_varargs"}),
    Cycler: frozenset({"current", "next", "reset"}),
}


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter or test, with each call charged to the budget and its result admitted."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        current = budget()
        current.tick()
        return current.admit(function(*args, **kwargs))

    return guarded


def _tick(value: Any) -> bool:
    budget().tick()
    return True


def _spend(n_chars: int) -> str:
    budget().charge(n_chars)
    return ""


def _concat(parts: tuple[Any, ...]) -> str:
    return bounded_join(budget(), "", [part if isinstance(part, str) else str(part) for part in parts])


def _key(value: Any) -> Any:
    # Hashing a tuple hashes all of its elements: a dictionary of many heavy tuples would take minutes in one step.
    if value is None or isinstance(value, str | int | float | Undefined):
        return value
    return budget().refuse(f"it uses a {type(value).__name__} as a dictionary key")


@pass_context
def _finalize(context: Context, value: Any) -> str:
    # Taking the context keeps Jinja from evaluating constant expressions while it compiles, where no budget applies.
    return budget().text(value)


class _Rewriting(NodeTransformer):
    """Inserts the budget's steps into a syntax tree. Raises `TemplateError` for tags that chat templates do not need."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(node, _ALLOWED_NODES):
            what = type(node).__name__.lower()
            raise TemplateError(f"the chat template uses a tag that is not allowed at line {node.lineno}: {what}")
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_step(_TICK, nodes.Const(None), node)).set_lineno(node.lineno))
        if node.test is not None:
            node.test = nodes.And(_step(_TICK, nodes.Const(None), node), node.test).set_lineno(node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        static = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        pay = nodes.ExprStmt(_step(_SPEND, nodes.Const(static), node)).set_lineno(node.lineno)
        return [pay, node] if static else [node]

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        if len(node.ops) > _MAX_COMPARISONS:
            raise TemplateError(f"the chat template compares too many values in one expression at line {node.lineno}")
        self.generic_visit(node)
        return nodes.And(_step(_TICK, nodes.Const(None), node), node).set_lineno(node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _step(_ADMIT, node, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _step(_ADMIT, node, node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            pair.key = _step(_KEY, pair.key, pair)
        return _step(_ADMIT, node, node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _step(_CONCAT, nodes.Tuple(node.nodes, "load").set_lineno(node.lineno), node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _step(_ADMIT, node, node) if isinstance(node.arg, nodes.Slice) else node


def _step(name: str, argument: nodes.Node, near: nodes.Node) -> nodes.Filter:
    step = nodes.Filter(argument.set_lineno(near.lineno), name, [], [], None, None)
    step.set_lineno(near.lineno)
    return step


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; in rendering it is only a scope."""

    tags: set[str] = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(lineno)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{5}", format_spec):
            budget().refuse("it formats with a width of more than 9,999")
        return budget().text(super().format_field(value, format_spec))


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter):
    """The same for marked-up text, which escapes what is put into it."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The Jinja environment of all chat templates; holds no state of any rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # the optimizer would compute `'a' * 10**9` while it compiles
            finalize=_finalize,
            extensions=[_Generation, loopcontrols],
            cache_size=0,
        )
        self.filters = {name: _guarded(function) for name, function in FILTERS.items()}
        self.filters |= {_TICK: _tick, _SPEND: _spend, _CONCAT: _concat, _KEY: _key}
        self.filters[_ADMIT] = lambda value: budget().admit(value)
        self.tests = {name: _guarded(function) for name, function in self.tests.items()}  # type: ignore[arg-type]
        self.globals = dict(GLOBALS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Rewriting().visit(tree)
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in names for kind, names in _SAFE_ATTRIBUTES.items())

    def getitem(self, obj: Any, argument: Any) -> Any:
        budget().tick()
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        budget().tick()
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # Marked-up text has its own `format`, which is a Python method: both must be replaced, or `{0.__class__}` gets out.
        methods = types.BuiltinMethodType | types.MethodType
        if not isinstance(value, methods) or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None
        if value.__name__ == "format_map":
            raise SecurityError("str.format_map is not allowed in a chat template")
        formatter = _EscapeFormatter(self, escape=text.escape) if isinstance(text, Markup) else _Formatter(self)
        return lambda *args, **kwargs: type(text)(formatter.vformat(str(text), args, kwargs))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        current = budget()
        current.tick()
        # A macro sees its arguments as one tuple and one dictionary, which no literal made.
        current.room(sum(map(current.weigh, args)) + sum(map(current.weigh, kwargs.values())))
        # Marked-up text (`|safe`) has the same methods, but written in Python.
        if isinstance(__obj, types.BuiltinMethodType | types.MethodType) and isinstance(__obj.__self__, str):
            # Inside loops and blocks Jinja hands every call the scope's variables, for callables that ask for a context.
            own = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
            if __obj.__name__ == "join":
                return bounded_join(current, __obj.__self__, *args, **own)
            if __obj.__name__ == "replace":
                return bounded_replace(current, __obj.__self__, *args, **own)
            if __obj.__name__ in ("center", "ljust", "rjust", "zfill"):
                current.room(int(args[0] if args else own.get("width", 0)))
            if __obj.__name__ in _SLOW:
                bounded_search(current, __obj.__self__, *args, *own.values())
            result = current.admit(super().call(__context, __obj, *args, **kwargs))
            if isinstance(result, list | tuple):  # split() and the like: the parts are new, too
                current.charge(current.weigh(result))
            return result
        return current.admit(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        current = budget()
        current.tick()
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "%" and isinstance(left, str):
            return bounded_percent(current, left, right)
        if operator == "**" and numbers and left.bit_length() * max(right, 0) > _MAX_BITS:
            current.refuse("it raises a number to a huge power")
        if operator == "*" and numbers and left.bit_length() + right.bit_length() > _MAX_BITS:
            current.refuse("it multiplies huge numbers")
        if operator == "*" and not numbers:
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    current.room(current.weigh(value) * max(times, 0))
        return current.admit(super().call_binop(context, operator, left, right))


@functools.cache
def sandbox() -> Sandbox:
    """The one environment, made when the first template is compiled."""
    return Sandbox()
