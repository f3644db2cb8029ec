"""Small pictures inside blocks: attention masks, and a router with experts."""

from __future__ import annotations

from ordito.drawing.scene import Figure, Line, Mark, Rect, Text
from ordito.spec import Attention, Block, LatentAttention, MixtureOfExperts, Pooling

CELLS = 12
"""Rows and columns of a mask: queries downwards, keys to the right."""
CELL = 5.0
"""Side of a cell, px."""
MOST_EXPERTS = 8
"""Experts that are drawn at most, two fewer beside a shared one; of more, the first ones and the last."""


def mask(block: Attention | LatentAttention) -> Figure:
    """The attention mask of queries (downwards) and keys (to the right): its pattern, not to scale."""
    side = CELLS * CELL
    marks: list[Mark] = [Rect(0, 0, side, side, "page", "attention.edge", line=0.8)]
    for query in range(CELLS):
        seen = [key for key in range(CELLS) if _sees(block, query, key)]
        starts = [key for key in seen if key - 1 not in seen]
        ends = [key + 1 for key in seen if key + 1 not in seen]
        for start, end in zip(starts, ends, strict=True):
            marks.append(Rect(start * CELL, query * CELL, (end - start) * CELL, CELL, "attention.edge"))
    return Figure(side, side, tuple(marks))


def _sees(block: Attention | LatentAttention, query: int, key: int) -> bool:
    """With a window of 4, chunks of 4, and sparse blocks of one position, of which the last 2 and every 4th are visible."""
    if isinstance(block, LatentAttention):
        return key <= query
    sparse = block.block_sparse is None or query - key < 2 or (key + 1) % 4 == 0
    near = block.window is None or abs(query - key) < 4
    together = block.chunk is None or query // 4 == key // 4
    return sparse and near and together and (key <= query or not block.causal)


def experts(block: MixtureOfExperts, room: float) -> Figure:
    """A router below the experts, the chosen ones filled, and a shared one beside them; `room` px wide."""
    names, chosen = _drawn(block.router.n_experts, block.router.top_k, MOST_EXPERTS - 2 * (block.shared is not None))
    gap, wide, high = 6.0, 29.0, 26.0
    last = max(wide, 9.0 * len(names[-1]) + 8)
    left = 70.0 if block.shared is not None else 0.0
    start, spine = (room - left - (len(names) - 1) * (wide + gap) - last) / 2, room / 2
    bus, top, router = 32.0, 46.0, 94.0
    bottom, fork, foot = top + high, router + 34, router + 44
    right = room - start
    middle = (start + left + right) / 2
    wires: list[Mark] = []
    boxes: list[Mark] = []
    ends = [spine]

    def expert(x: float, size: float, name: str, works: bool, below: float) -> None:
        centre = x + size / 2
        boxes.append(Rect(x, top, size, high, "mixture.edge" if works else "page", "mixture.edge", 4, 1.2 if works else 0.8))
        boxes.append(Text(centre, top + 18, name, 13, "page" if works else "quiet", works, "middle"))
        if works:
            ends.append(centre)
            wires.append(Line(((centre, below), (centre, bottom)), "mixture.edge", 1.6, arrow=True))
            wires.append(Line(((centre, top), (centre, bus)), "mixture.edge", 1.6))

    if block.shared is not None:
        expert(start, 58, "shared", True, fork)
        wires.append(Line(((start + 29, fork), (middle, fork)), "mixture.edge", 1.6))
    for i, name in enumerate(names):
        x, size = start + left + i * (wide + gap), last if i + 1 == len(names) else wide
        if name == "…":
            boxes.append(Text(x + size / 2, top + 18, name, 14, "quiet", anchor="middle"))
        else:
            expert(x, size, name, i in chosen, router)
    wires.append(Line(((min(ends), bus), (max(ends), bus)), "mixture.edge", 1.6))
    wires.append(Line(((spine, bus), (spine, 20)), "mixture.edge", 1.6))
    if block.shared is not None:
        wires.append(Line(((spine, foot), (spine, fork)), "mixture.edge", 1.6))
    wires.append(
        Line(((middle, fork if block.shared is not None else foot), (middle, router + 24)), "mixture.edge", 1.6, arrow=True)
    )
    pill = Rect(start + left, router, right - start - left, 24, "page", "mixture.edge", 12)
    word = Text(middle, router + 17, "router", 13, "text", True, "middle")
    return Figure(room, foot, (*wires, *boxes, pill, word, *plus(spine, 11)), spine)


def _drawn(n: int, top_k: int, most: int) -> tuple[list[str], set[int]]:
    """The names of the experts that are drawn, and which are filled: of many at most three, for those chosen."""
    if n > most:
        return [*map(str, range(1, most - 1)), "…", f"{n:,}"], set([1, 3, 2][:top_k])
    return [str(i + 1) for i in range(n)], set([i for i in (1, 4, 2, 6, 0, 3, 5, 7) if i < n][:top_k])


def plus(x: float, y: float) -> tuple[Mark, ...]:
    """The circle of an addition."""
    return (
        Rect(x - 9, y - 9, 18, 18, "page", "line", 9, 1.5),
        Line(((x - 5, y), (x + 5, y))),
        Line(((x, y - 5), (x, y + 5))),
    )


def picture(block: Block | Pooling) -> Figure | None:
    """The mask of a self-attention; None for other blocks."""
    own = isinstance(block, LatentAttention) or (isinstance(block, Attention) and not block.cross)
    return mask(block) if own and isinstance(block, (Attention, LatentAttention)) else None
