"""The whole model as a column, from token ids at the bottom to its outputs at the top, with folded layers."""

from __future__ import annotations

from dataclasses import dataclass

from ordito.drawing.box import box
from ordito.drawing.layer import GAP as ARROW
from ordito.drawing.layer import Describe, Piece, chain, parallel
from ordito.drawing.plan import Kind, Plan, Repeat, Stage
from ordito.drawing.rows import folded
from ordito.drawing.scene import Figure, Text
from ordito.drawing.words import Label
from ordito.spec import Block, Dense, Embedding, Head, Pooling
from ordito.units import plural

ROOM = 250.0
"""Width of a box, px."""


@dataclass(frozen=True)
class Column:
    """A column, the y at which an encoder's states enter its layers, and the y of an embedding and of its tied head."""

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
        row, _ = parallel([chain(_outlet(outlet, describe)) for outlet in plan.outlets])
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
    shared = Piece(box(Label("embedding", "Shared embedding"), ROOM), True)
    return chain([caption("source token ids"), shared, *_stages(plan.encoder, plan.kinds, describe, new_rows)])


def caption(text: str, room: float = ROOM) -> Piece:
    """The text at an end of a column."""
    return Piece(Figure(room, 18, (Text(room / 2, 14, text, 14, "quiet", anchor="middle"),), room / 2), True)


def _stages(stages: tuple[Stage, ...], kinds: tuple[Kind, ...], describe: Describe, new_rows: frozenset[str]) -> list[Piece]:
    pieces = []
    for stage in stages:
        if isinstance(stage, Repeat):
            pieces.append(Piece(folded(stage, kinds, ROOM, new_rows), True))
        else:
            gives = f"d_model {stage.d_model:,}" if isinstance(stage, Embedding) else ""
            pieces.append(Piece(box(describe("", stage), ROOM, stage), True, gives=gives))
    return pieces


def _outlet(blocks: tuple[Block | Pooling, ...], describe: Describe) -> list[Piece]:
    pieces = [Piece(box(describe("", block), ROOM, block), True) for block in blocks]
    match blocks[-1]:
        case Head(vocab_size=size):
            end = f"logits over {plural(size, 'token')}"
        case Dense(d_out=size):
            end = f"vector of {size:,}"
        case _:
            end = "embedding of the text"
    return [*pieces, caption(end)]
