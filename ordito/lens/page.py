"""A trace as text, 100 columns wide: one layer of each stack in full, then a table of all layers, then the predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from textwrap import wrap

from ordito.accounting import Table
from ordito.accounting.tree import ranges
from ordito.errors import OrditoError
from ordito.lens.numbers import Choice, Look, Looks, Numbers, Sum, Vector
from ordito.lens.step import Addition, Step, dimensions
from ordito.lens.steps import Section
from ordito.lens.tracing import Token, Trace

WIDTH, SHAPE, NUMBERS, FORMULA = 100, 10, 28, 24
TOKENS = 24
"""Tokens of the text that are listed, at most."""
LEGEND = (
    "x: residual stream; h, o, m: outputs of norm, attention, feed-forward; p: position of the token, j: positions of keys; "
    "matrices are out x in."
)


NUMBERED = (
    "Values: root mean square (rms), range, the first few. Heads: the position with the largest attention weight, and the "
    "entropy of the weights."
)


def lines(trace: Trace, layer: int | None = None) -> list[str]:
    """The lines of the page.

    With values, the first layer of each stack (or `layer`) is shown in full, and every layer has a row of a table. Without,
    equal layers are shown once, or `layer` alone. Raises `OrditoError` for a layer out of range.
    """
    depth = 1 + max((section.layer for section in trace.sections if section.layer is not None), default=-1)
    if layer is not None and not 0 <= layer < depth:
        raise OrditoError(f"got layer {layer}, expected 0 to {depth - 1}")
    page = [*_title(trace), "", *wrap(f"{LEGEND} {NUMBERED}" if trace.has_numbers else LEGEND, WIDTH)]
    for part in _measured(trace, layer) if trace.has_numbers else _bare(trace, layer):
        page += ["", *part]
    if trace.guesses:
        page += ["", f"softmax(z): the most probable {'next tokens' if trace.spec.generates else 'tokens at this position'}"]
        page += [f"  {100 * guess.probability:5.1f}%  {said(guess.text)}" for guess in trace.guesses]
    if trace.spec.ahead:
        page += ["", "Not shown: multi-token prediction, which the next token does not need."]
    return page


def _title(trace: Trace) -> Iterator[str]:
    model = f"{trace.name} ({trace.spec.architecture})"
    if trace.position is None:
        yield f"One token through {model}: formulas and shapes."
        return
    token = trace.tokens[trace.position]
    yield f"Token {said(token.text)} (id {token.id}) at position {trace.position} through {model}"
    first = max(0, min(trace.position - TOKENS + 4, len(trace.tokens) - TOKENS))
    listed = [f"{at} {said(token.text)}" for at, token in enumerate(trace.tokens)][first : first + TOKENS]
    before, after = ("... " if first else ""), (" ..." if first + TOKENS < len(trace.tokens) else "")
    yield from wrap(f"{before}{'  '.join(listed)}{after}", WIDTH, initial_indent="  ", subsequent_indent="  ")


def _bare(trace: Trace, layer: int | None) -> Iterator[list[str]]:
    """Without values: each distinct layer once, with a reference for blocks that were shown before."""
    shown: dict[object, str] = {}
    for section, numbers in trace.folded():
        if numbers and layer is not None and layer not in numbers:
            continue
        part, names = _heading(section, numbers), _names(section)
        for steps in (list(run) for _, run in groupby(section.steps, key=lambda step: step.path)):
            said_of_them = tuple((step.block, step.formula, step.notes, step.shape) for step in steps)
            first = shown.setdefault(said_of_them, section.title)
            if first == section.title:
                part += _steps(steps, trace.tokens, names, 0)
            else:
                part.append(f"  {steps[0].block:{names}} as in {first}")
        yield part


def _measured(trace: Trace, layer: int | None) -> Iterator[list[str]]:
    """With values: one layer of each stack in full, and a table of all its layers."""
    for in_stack, run in groupby(trace.sections, key=lambda section: (section.layer is not None, section.encoder)):
        sections = list(run)
        whole = sections if not in_stack[0] else [section for section in sections if section.layer == (layer or 0)]
        for section in whole:
            # The decoder of an encoder-decoder has its own tokens: positions there are not those of the text.
            own = trace.spec.encoder is not None and not section.encoder
            yield [*_heading(section, ()), *_steps(section.steps, () if own else trace.tokens, _names(section), NUMBERS)]
        if in_stack[0]:
            yield _every_layer(trace, sections)


def _heading(section: Section, numbers: Sequence[int]) -> list[str]:
    if len(numbers) < 2:
        return [section.title]
    return wrap(f"{'encoder ' if section.encoder else ''}layers {ranges(numbers)} (identical)", WIDTH, subsequent_indent="  ")


def _names(section: Section) -> int:
    """The width of the column of block names."""
    return max(len(step.block) for step in section.steps)


def _steps(steps: Iterable[Step], tokens: Sequence[Token], names: int, values: int) -> Iterator[str]:
    """The steps as rows: block (`names` wide), formula with its notes, shape, and numbers (`values` wide, 0 for none)."""
    room = WIDTH - names - SHAPE - values - 5
    last = None
    for step in steps:
        name = "+" if isinstance(step, Addition) else "" if step.path == last else step.block
        last = None if isinstance(step, Addition) else step.path
        text = wrap(step.formula, room, subsequent_indent="  ")
        notes = list(step.notes)
        if notes and len(step.formula) <= FORMULA and FORMULA + 2 + len(notes[0]) <= room:
            text = [f"{step.formula:{FORMULA}}  {notes.pop(0)}"]
        for note in notes:
            text += wrap(note, room, initial_indent="  ", subsequent_indent="    ")
        shape = dimensions(step.shape)
        rows = zip_longest(text, [shape], told(step.numbers) if values else [], fillvalue="")
        for number, (formula, size, numbers) in enumerate(rows):
            yield f"  {name if not number else '':{names}} {formula:{room}} {size:>{SHAPE}}  {numbers}".rstrip()
        if isinstance(step.numbers, Looks):
            yield from _heads(step.numbers.heads, tokens, names + 5)


def told(numbers: Numbers | None) -> list[str]:
    """Numbers as at most a few short lines."""
    match numbers:
        case Sum(change=change):
            by = "" if change is None else f", changed by {percent(change)}"
            return [f"rms {short(numbers.rms)}{by}", _values(numbers)]
        case Vector():
            return [f"rms {short(numbers.rms)}, {short(numbers.low)} to {short(numbers.high)}", _values(numbers)]
        case Choice():
            pairs = [f"{expert}: {weight:.3g}" for expert, weight in zip(numbers.experts, numbers.weights, strict=True)]
            return wrap("expert " + ", ".join(pairs), NUMBERS)
    return []


def _values(vector: Vector) -> str:
    return " ".join(f"{value:.2g}" for value in vector.first) + " ..."


def _heads(heads: Sequence[Look], tokens: Sequence[Token], indent: int) -> Iterator[str]:
    """The attention of each head, as many heads per line as fit."""
    cells = []
    for number, look in enumerate(heads):
        sink = f", sink {100 * look.sink:.0f}%" if look.sink else ""
        at = place(look.position, tokens)
        cells.append(f"head {number}: {100 * look.probability:.0f}% on {at}, {look.entropy:.1f} bits{sink}")
    width = max(map(len, cells), default=0) + 3
    columns = max(1, (WIDTH - indent) // width)
    for start in range(0, len(cells), columns):
        yield " " * indent + "".join(f"{cell:{width}}" for cell in cells[start : start + columns]).rstrip()


def _every_layer(trace: Trace, sections: Sequence[Section]) -> list[str]:
    rows: list[dict[str, str]] = []
    for section in sections:
        row = {"layer": str(section.layer)}
        crossing = trace.spec.encoder is not None and not section.encoder
        for step in section.steps:
            match step:
                case Step(numbers=Looks(position=position, mean=mean)):
                    of_source = crossing and "attends to" in row
                    tokens = trace.tokens if of_source or not crossing else ()
                    row["in the source" if of_source else "attends to"] = f"{place(position, tokens)} {100 * mean:.0f}%"
                case Step(numbers=Choice(experts=experts)):
                    shown = ", ".join(map(str, experts[:4]))
                    row["experts"] = shown + (", ..." if len(experts) > 4 else "")
                case Addition(numbers=Sum(change=float() as change)):
                    row[f"by {step.added}"] = percent(change)
        last = next((step.numbers for step in reversed(section.steps) if isinstance(step.numbers, Vector)), None)
        row["rms of x"] = short(last.rms) if last else ""
        if section.guess is not None:
            row["logit lens"] = f"{said(section.guess.text)} {100 * section.guess.probability:.0f}%"
        rows.append(row)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names = tuple(f">{name}" if name.startswith(("layer", "by ", "rms")) else name for name in columns)
    title = "all layers: largest attention weight (mean over heads), change of x by each block, logit lens"
    cells = tuple(tuple(row.get(name, "") for name in columns) for row in rows)
    return Table(("encoder, " if sections[0].encoder else "") + title, names, cells).lines()


def short(value: float) -> str:
    """A number with three significant digits.

    >>> short(0.0469), short(-234.6), short(1217.8)
    ('0.0469', '-235', '1,218')
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share in per cent.

    >>> percent(0.0884), percent(0.31), percent(10.12)
    ('8.8%', '31%', '1,012%')
    """
    return f"{100 * share:,.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def place(position: int, tokens: Sequence[Token]) -> str:
    """A position and the text of its token, if known."""
    return f"{position} {said(tokens[position].text)}" if position < len(tokens) else str(position)


def said(text: str) -> str:
    """A token's text in quotes, control characters escaped, at most 20 characters."""
    return repr(text if len(text) <= 20 else text[:19] + "…")
