"""A trace as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from ordito.accounting import Table
from ordito.lens.trace import LayerRow, Row, Trace, rms, shown
from ordito.runtime import Floats

WIDTH = 100
FIRST = 5
"""Numbers of a vector that are shown."""


def lines(trace: Trace, layer: int = 0) -> list[str]:
    """The whole way; of the layers the one of that number in full, the others in a line each, or not at all if alike."""
    text = list(_heading(trace))
    for path, rows in _places(trace.rows):
        number = _number(path)
        if number is None or (trace.tokens and number == layer):
            text += ["", path, *_table(rows)]
        elif not trace.tokens:
            same = _alike_before(trace.rows, path)
            if same is None:
                text += ["", path, *_table(rows)]
    if not trace.tokens:
        text += ["", *_counted(trace)]
    else:
        text += ["", *layer_table(trace.layers).lines()]
    if trace.next_tokens:
        said = ", ".join(f"{shown(token)} {probability:.3f}" for token, probability in trace.next_tokens)
        text += ["", f"next: {said}"]
    return text


def _heading(trace: Trace) -> Iterator[str]:
    if not trace.tokens:
        yield "What happens to the token at position p, without weights: formulas and shapes."
        return
    if trace.source:
        yield from wrap(f"source: {_spelled(trace.source)}", WIDTH)
    yield from wrap(f"text: {_spelled(trace.tokens)}", WIDTH)
    yield f"followed: {shown(trace.tokens[-1])}, p = {trace.position}"


def _spelled(tokens: Sequence[str]) -> str:
    many = f" … ({len(tokens)} tokens)" if len(tokens) > 40 else ""
    return " ".join(map(shown, tokens[:40])) + many


def _places(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by layer, in order; what stands outside of layers by leaf."""
    places: list[tuple[str, list[Row]]] = []
    for row in rows:
        parts = row.path.split(".")
        place = ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else row.path
        if not places or places[-1][0] != place:
            places.append((place, []))
        places[-1][1].append(row)
    return places


def _number(place: str) -> int | None:
    last = place.rpartition(".")[2]
    return int(last) if last.isdigit() else None


def _text_of(rows: Sequence[Row]) -> tuple[tuple[str, str, str], ...]:
    return tuple((row.path.rpartition(".")[2], row.what, row.formula) for row in rows)


def _kinds(rows: Sequence[Row]) -> dict[tuple[tuple[str, str, str], ...], list[str]]:
    """The layers by what happens in them."""
    kinds: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for place, own in _places(rows):
        if _number(place) is not None:
            steps = tuple(step for step in _text_of(own) if not step[0].isdigit())
            kinds.setdefault((*steps, (place.split(".")[0], "", "")), []).append(place)
    return kinds


def _alike_before(rows: Sequence[Row], place: str) -> str | None:
    """An earlier layer in which the same happens."""
    for places in _kinds(rows).values():
        if place in places and places[0] != place:
            return places[0]
    return None


def _counted(trace: Trace) -> Iterator[str]:
    for places in _kinds(trace.rows).values():
        if len(places) > 1:
            yield f"{places[0]} stands for {len(places)} layers that do the same."


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows under each other: what, formula, shape; below them numbers and notes."""
    leaf = ""
    for row in rows:
        name = row.path.rpartition(".")[2]
        if name != leaf and not name.isdigit() and name != row.path:
            yield f"  {name}"
        leaf = name
        first, *more = wrap(row.formula, WIDTH - 38) or [""]
        yield f"    {row.what:14}{first:{WIDTH - 38}}  {row.shape}".rstrip()
        yield from (f"    {'':14}{line}" for line in more)
        if row.value is not None:
            yield f"    {'':14}{numbers(row.value)}"
        yield from (f"    {'':14}{note}" for note in row.notes)


def numbers(vector: Floats) -> str:
    """A vector in a line."""
    first = " ".join(f"{value:+.3f}" for value in vector[:FIRST])
    return f"= [{first} …], root mean square {rms(vector):.3f}"


def layer_table(layers: Sequence[LayerRow]) -> Table:
    """A line for each layer."""
    experts = any(layer.experts for layer in layers)
    guesses = any(layer.guess for layer in layers)
    blocks = list(dict.fromkeys(name for layer in layers for name in layer.changes))
    columns = ("layer", "looks at, over all heads", *(["experts"] if experts else []), *(f">{b}" for b in blocks), ">rms of x")
    rows = [
        (
            layer.path,
            ", ".join(f"{token} {weight:.2f}" for token, weight in layer.looks_at[:2]),
            *([" ".join(str(expert) for expert, _ in layer.experts)] if experts else []),
            *(f"{100 * layer.changes[b]:.0f} %" if b in layer.changes else "" for b in blocks),
            f"{layer.rms:.3g}",
            *([f"{shown(layer.guess[0])} {layer.guess[1]:.2f}" if layer.guess else ""] if guesses else []),
        )
        for layer in layers
    ]
    title = "Layers: how much each block adds, in parts of the length of x" + (
        ", and what would be said here" if guesses else ""
    )
    return Table(title, (*columns, *(["guess"] if guesses else [])), tuple(rows))
