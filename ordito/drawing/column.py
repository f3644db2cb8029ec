"""The whole model as a column, from token ids below to what it gives above, its layers folded."""

from __future__ import annotations

from dataclasses import dataclass

from ordito.drawing.box import SIGN, SLACK, box
from ordito.drawing.facts import Fact
from ordito.drawing.layer import GAP as ARROW
from ordito.drawing.layer import Describe, Piece, beside, chain
from ordito.drawing.measure import cut, width
from ordito.drawing.plan import Kind, Plan, Repeat, Stage
from ordito.drawing.scene import Figure, Line, Mark, Rect, Text, moved
from ordito.drawing.words import Label
from ordito.spec import Block, Dense, Embedding, Head, Pooling

ROOM = 250.0
"""Width of a box, px."""
ROW, BETWEEN_ROWS = 36.0, 8.0
"""Height of a row of layers, and what is between two, px."""
TIMES = 52.0
"""Room for `10 ×` beside the layers that are repeated, px."""
MOST_ROWS = 12
"""Rows of layers that are drawn; the others are counted."""


@dataclass(frozen=True)
class Column:
    """A column, the height at which an encoder's states enter its layers, and those of an embedding and its tied head."""

    figure: Figure
    entry: float
    tie: tuple[float, float] | None


def decoder(plan: Plan, describe: Describe, new_rows: frozenset[str]) -> Column:
    """The column of the body with its outlets."""
    pieces = [caption("token ids"), *_stages(plan.body, plan.kinds, describe, new_rows)]
    blocks: list[Stage | Pooling | None] = [None, *plan.body]
    if len(plan.outlets) == 1:
        pieces.extend(_outlet(plan.outlets[0], describe))
        blocks.extend(plan.outlets[0])
    elif plan.outlets:
        row, _ = beside([chain(_outlet(outlet, describe)) for outlet in plan.outlets])
        pieces.append(Piece(row, False))
    else:
        pieces.append(caption("hidden states"))
    figure = chain(pieces).figure
    middles, y = [], figure.height
    for each in pieces:
        middles.append(y - each.figure.height / 2)
        y -= each.figure.height + ARROW
    entry = next((y for y, block in zip(middles, blocks, strict=False) if isinstance(block, Repeat)), 0.0)
    ends = [y for y, block in zip(middles, blocks, strict=False) if isinstance(block, Embedding) or _is_tied(block)]
    return Column(figure, entry, (ends[0], ends[1]) if len(ends) == 2 else None)


def _is_tied(block: object) -> bool:
    return isinstance(block, Head) and block.tied


def encoder(plan: Plan, describe: Describe, new_rows: frozenset[str]) -> Piece:
    """The column of the encoder, on the embedding of the body."""
    shared = Piece(box(Label("embedding", "The same embedding"), ROOM), True)
    return chain([caption("source ids"), shared, *_stages(plan.encoder, plan.kinds, describe, new_rows)])


def caption(text: str, room: float = ROOM) -> Piece:
    """A word at an end of a column."""
    return Piece(Figure(room, 18, (Text(room / 2, 14, text, 14, "quiet", anchor="middle"),), room / 2), True)


def row_name(times: int, kind: Kind) -> str:
    """What stands on a row of layers: how many, and of which kind."""
    return f"{times:,} × {kind.name}" if kind.name else f"{times:,} {'layer' if times == 1 else 'layers'}"


def badge(x: float, y: float, letter: str) -> tuple[Mark, ...]:
    """The letter of a kind of layer in a disc around a point."""
    wide = max(22.0, width(letter, 13, True) + 12)
    return (
        Rect(x - wide / 2, y - 11, wide, 22, "badge", radius=11),
        Text(x, y + 4.7, letter, 13, "badge.text", True, "middle"),
    )


def layers_row(name: str, letter: str, room: float, new: bool = False) -> Figure:
    """One row: a badge, and what it stands for."""
    text = cut(f"{SIGN} {name}" if new else name, 14, (room - 60) / SLACK, True)
    frame = Rect(0, 0, room, ROW, "layer.fill", "new" if new else "layer.edge", 7, 2.2 if new else 1.2, dash=new)
    marks = (frame, *badge(24, ROW / 2, letter), Text(44, ROW / 2 + 5, text, 14, "new" if new else "text", True))
    return Figure(room, ROW, marks, room / 2)


def _stages(stages: tuple[Stage, ...], kinds: tuple[Kind, ...], describe: Describe, new_rows: frozenset[str]) -> list[Piece]:
    pieces = []
    for stage in stages:
        if isinstance(stage, Repeat):
            pieces.append(Piece(_repeat(stage, kinds, new_rows), True))
        else:
            gives = f"d_model {stage.d_model:,}" if isinstance(stage, Embedding) else ""
            pieces.append(Piece(box(describe("", stage), ROOM, stage), True, gives=gives))
    return pieces


def _repeat(repeat: Repeat, kinds: tuple[Kind, ...], new_rows: frozenset[str]) -> Figure:
    """Rows of layers, the first lowest; those that are repeated together in a frame."""
    marks: list[Mark] = []
    y, rows = 0.0, 0
    for number, (times, runs) in enumerate(repeat.groups):
        drawn = runs[: max(0, MOST_ROWS - rows)]
        if not drawn or len(drawn) < len(runs):
            left = sum(t * sum(n for n, _ in each) for t, each in repeat.groups[number:])
            y -= ROW
            note = f"… {left:,} more layers of other kinds"
            marks.append(Text(ROOM / 2, y + 22, note, 14, "quiet", anchor="middle"))
            break
        rows += len(drawn)
        high = len(drawn) * (ROW + BETWEEN_ROWS) - BETWEEN_ROWS
        if times > 1:
            marks.extend(_frame(times, y - high - 16, high + 16))
        left, lower = (TIMES, 8.0) if times > 1 else (0.0, 0.0)
        for i, (n, kind) in enumerate(drawn):
            top = y - lower - (i + 1) * ROW - i * BETWEEN_ROWS
            name = row_name(n, kinds[kind])
            row = layers_row(name, kinds[kind].letter, ROOM - left - lower, f"{times} {name}" in new_rows)
            marks.extend(moved(row.marks, left, top))
            if i:
                x = left + (ROOM - left - lower) / 2
                marks.append(Line(((x, top + ROW + BETWEEN_ROWS), (x, top + ROW))))
        y -= high + 2 * lower
        if number + 1 < len(repeat.groups):
            marks.append(Line(((ROOM / 2, y), (ROOM / 2, y - 14)), arrow=True))
            y -= 14
    return Figure(ROOM, -y, moved(marks, 0, -y), ROOM / 2)


def _frame(times: int, y: float, height: float) -> tuple[Mark, ...]:
    label = Text(TIMES / 2, y + height / 2 + 6, f"{times:,} ×", 16, "text", True, "middle")
    return Rect(0, y, ROOM, height, "group", "group.edge", 10), label


def _outlet(blocks: tuple[Block | Pooling, ...], describe: Describe) -> list[Piece]:
    pieces = [_outlet_box(block, describe) for block in blocks]
    match blocks[-1]:
        case Head(vocab_size=size):
            end = f"logits over {size:,} tokens"
        case Dense(d_out=size):
            end = f"one vector of {size:,}"
        case _:
            end = "one vector for the text"
    return [*pieces, caption(end)]


def _outlet_box(block: Block | Pooling, describe: Describe) -> Piece:
    if isinstance(block, Pooling):
        return Piece(box(pooling_label(block), ROOM), True)
    return Piece(box(describe("", block), ROOM, block), True)


def pooling_label(pooling: Pooling) -> Label:
    """The words for a pooling."""
    which = {"cls": "the first token's state", "mean": "the mean over tokens", "last": "the last token's state"}
    facts = [Fact("takes", which[pooling.kind])]
    if pooling.normalise:
        facts.append(Fact("length", "scaled to 1 at the end"))
    if pooling.max_tokens is not None:
        facts.append(Fact("texts", f"up to {pooling.max_tokens:,} tokens"))
    return Label("dense", "Pooling", tuple(facts))
