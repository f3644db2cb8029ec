"""A plan as compact text: one line per step, layers folded as `26 x [...]`. ASCII, for any terminal."""

from __future__ import annotations

from textwrap import wrap

from ordito.drawing.plan import Kind, Plan, Repeat, Stage, leaves_of
from ordito.drawing.sizes import brief, parameters
from ordito.drawing.words import Label, Leaf, label
from ordito.spec import Block, Chain, Norm, Residual, Stack, Sum

COLUMNS = 100
"""Width of a line, in characters."""
MOST_GROUPS = 12
"""Groups of layers, and kinds in a group, that are written out at most; the others are counted."""
LONGEST_NAME = 40
"""Characters of a block's name that are shown, at most."""
_ASCII = str.maketrans(
    {
        "×": "x",
        "→": "->",
        "θ": "theta",
        "ε": "eps",
        "√": "sqrt ",
        "÷": "/",
        "–": "-",
        "≤": "<=",
        "·": "*",
        "…": "...",
        "±": "+-",
    }
)


def text(plan: Plan, title: str, facts: list[str]) -> str:
    """The text of a plan, under a title and facts."""
    rows: list[tuple[str, str]] = []
    if plan.encoder:
        rows += [("encoder:", ""), ("embedding", "shared with the decoder"), *_stages(plan.encoder, plan), ("decoder:", "")]
    rows += _stages(plan.body, plan)
    rows += [_row(block) for outlet in plan.outlets for block in outlet]
    lines = [title, ", ".join(facts), "", *_table(rows)]
    if len(plan.kinds) > 1:
        for kind in plan.drawn:
            name = f"{kind.letter}: {kind.title}" if kind.title else kind.letter
            many = f"{kind.times:,} x " if kind.times else ""
            lines += ["", f"{name} ({many}{brief(kind.parameters)})", *(f"  {line}" for line in _table(_layer(kind.layer)))]
        if left := len(plan.kinds) - len(plan.drawn):
            lines += ["", f"... {left:,} more kinds of layers"]
    for times, module, number in plan.ahead[:MOST_GROUPS]:
        kind, norms = plan.kinds[number], (module.embedding_norm, module.hidden_norm, module.norm)
        lines += ["", f"multi-token prediction, MTP ({times} x {brief(parameters(module))}), not needed for inference"]
        lines += [f"  norm({kind.letter}({module.join.name}([norm(embedding of the next token), norm(hidden state)])))"]
        rows = [(module.join.name, _facts(label(module.join), False))]
        rows += [("norm", words) for words in dict.fromkeys(_facts(label(norm)) for norm in norms)]
        lines += [f"  {line}" for line in _table(rows)]
    return "\n".join(lines).translate(_ASCII)


def expression(block: Block, x: str = "x") -> str:
    """The expression that a block computes from x, in the names of its parts.

    >>> from ordito.spec import Dense
    >>> expression(Residual(Dense(name="mlp", d_in=4, d_out=4)))
    'x + mlp(x)'
    """
    match block:
        case Chain():
            for part in block.parts:
                x = expression(part, x)
            return x
        case Sum():
            return " + ".join(expression(part, x) for part in block.parts)
        case Residual():
            return f"{x} + {expression(block.inner, x)}"
        case Stack():
            return f"{block.name}({x})"
    return f"{_name(block)}({x})"


def _stages(stages: tuple[Stage, ...], plan: Plan) -> list[tuple[str, str]]:
    rows = []
    for stage in stages:
        if not isinstance(stage, Repeat):
            rows.append(_row(stage))
        elif len(plan.kinds) == 1:
            steps = _layer(plan.kinds[0].layer)
            rows.append((f"{plan.kinds[0].times:,} x [", ""))
            rows += [(f"  {step}", words) for step, words in steps] + [("]", "")]
        else:
            rows.append(("layers", _folded(stage, plan.kinds)))
    return rows


def _folded(repeat: Repeat, kinds: tuple[Kind, ...]) -> str:
    """`4 x [5 A + 1 B] + 2 A`."""
    parts = []
    for times, runs in repeat.groups[:MOST_GROUPS]:
        row = " + ".join(f"{n:,} {kinds[kind].letter}" for n, kind in runs[:MOST_GROUPS])
        row += f" + {len(runs) - MOST_GROUPS} more" if len(runs) > MOST_GROUPS else ""
        parts.append(f"{times:,} x [{row}]" if times > 1 else row)
    left = len(repeat.groups) - MOST_GROUPS
    return " + ".join(parts) + (f" + {left:,} more groups" if left > 0 else "")


def _layer(layer: Block) -> list[tuple[str, str]]:
    """Each step of a layer with the description of its blocks, and its distinct norms at the end."""
    steps: list[tuple[str, list[Block]]] = []
    for part in layer.parts if isinstance(layer, Chain) else (layer,):
        if isinstance(part, Norm) and steps:
            steps[-1] = (f"norm({steps[-1][0]})", steps[-1][1])
        else:
            steps.append((expression(part), leaves_of(part)))
    norms = dict.fromkeys(_facts(label(leaf)) for leaf in leaves_of(layer) if isinstance(leaf, Norm))
    rows = []
    for step, leaves in steps:
        words = [_facts(label(leaf)) for leaf in leaves if not isinstance(leaf, Norm)] or [""]
        rows += [(step if i == 0 else "", each) for i, each in enumerate(words)]
    return [*rows, *(("norm" if i == 0 else "", norm) for i, norm in enumerate(norms))]


def _row(block: Leaf) -> tuple[str, str]:
    return _name(block), _facts(label(block), isinstance(block, Norm))


def _name(block: Leaf) -> str:
    return "norm" if isinstance(block, Norm) else str(getattr(block, "name", type(block).__name__.lower()))[:LONGEST_NAME]


def _facts(of: Label, titled: bool = True) -> str:
    facts = "; ".join(f"{fact.key} {fact.value}".strip() for fact in of.facts)
    return f"{of.title}: {facts}" if titled else facts.removeprefix("size ")


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns; the second is wrapped."""
    left = min(44, max((len(name) for name, words in rows if words), default=0)) + 2
    lines = []
    for name, words in rows:
        first, *more = wrap(words.translate(_ASCII), COLUMNS - 2 - left) or [""]
        lines += [f"{name:{left}}{first}".rstrip(), *(f"{'':{left}}{line}" for line in more)]
    return lines
