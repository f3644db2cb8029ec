"""Small pictures inside blocks: who sees whom, and a router over experts."""

from __future__ import annotations

from ordito.drawing.scene import Figure, Line, Mark, Rect, Text
from ordito.spec import Attention, Block, LatentAttention, MixtureOfExperts

CELLS = 12
"""Rows and columns of a mask: queries downwards, keys to the right."""
CELL = 5.0
"""Side of a cell, px."""
MOST_EXPERTS = 8
"""Experts that are drawn one by one; of more, the first ones and the last."""


def mask(block: Attention | LatentAttention) -> Figure:
    """Which keys (to the right) each query (downwards) sees: the pattern, not to scale."""
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
    """As the block does, with a window of 4, chunks of 4, and blocks of one position of which 2 and every 4th are seen."""
    if isinstance(block, LatentAttention):
        return key <= query
    sparse = block.block_sparse is None or query - key < 2 or (key + 1) % 4 == 0
    near = block.window is None or abs(query - key) < 4
    together = block.chunk is None or query // 4 == key // 4
    return sparse and near and together and (key <= query or not block.causal)


def experts(block: MixtureOfExperts, room: float) -> Figure:
    """A router under the experts, those that it chooses filled, and a shared one beside them; `room` px wide."""
    n, shared = block.router.n_experts, block.shared is not None
    names = [str(i + 1) for i in range(n)] if n <= MOST_EXPERTS else ["1", "2", "3", "4", "5", "6", "…", f"{n:,}"]
    chosen = _chosen(block.router.top_k, n)
    gap, wide, high = 6.0, 30.0, 26.0
    last = max(wide, 9.0 * len(names[-1]) + 8)
    left = 74.0 if shared else 0.0
    total = left + (len(names) - 1) * (wide + gap) + last
    start = (room - total) / 2
    plus_y, top, router_y = 9.0, 38.0, 90.0
    bottom, middle = top + high, start + left + (total - left) / 2
    edges, boxes = list[Mark](), list[Mark]()
    xs = [start + left + i * (wide + gap) for i in range(len(names))]
    for i, (name, x) in enumerate(zip(names, xs, strict=True)):
        size, works = last if i == len(names) - 1 else wide, i in chosen
        centre = x + size / 2
        if name == "…":
            boxes.append(Text(centre, top + 18, name, 14, "quiet", anchor="middle"))
            continue
        if works:
            edges.append(Line(((centre, router_y), (centre, bottom)), "mixture.edge", 1.6, arrow=True))
            edges.append(Line(((centre, top), (centre, top - 14)), "mixture.edge", 1.6))
        boxes.append(
            Rect(x, top, size, high, "mixture.edge" if works else "page", "mixture.edge", 4, 1.2 if works else 0.8)
        )
        boxes.append(Text(centre, top + 18, name, 13, "page" if works else "quiet", works, "middle"))
    ends = [xs[i] + (last if i == len(names) - 1 else wide) / 2 for i in sorted(chosen)]
    if shared:
        centre = start + 30
        boxes.append(Rect(start, top, 60, high, "mixture.edge", "mixture.edge", 4))
        boxes.append(Text(centre, top + 18, "shared", 13, "page", True, "middle"))
        edges.append(Line(((centre, router_y + 34), (centre, bottom)), "mixture.edge", 1.6, arrow=True))
        edges.append(Line(((centre, top), (centre, top - 14)), "mixture.edge", 1.6))
        ends.append(centre)
    edges.append(Line(((min([*ends, middle]), top - 14), (max([*ends, middle]), top - 14)), "mixture.edge", 1.6))
    edges.append(Line(((middle, top - 14), (middle, plus_y + 9)), "mixture.edge", 1.6))
    router = [
        Rect(start + left, router_y, total - left, 24, "page", "mixture.edge", 12),
        Text(middle, router_y + 17, "router", 13, "text", True, "middle"),
    ]
    return Figure(room, router_y + 34, (*edges, *boxes, *router, *plus(middle, plus_y)), middle)


def _chosen(top_k: int, n: int) -> set[int]:
    """Which of the drawn experts are filled: as many as are chosen, and of many experts at most three."""
    if n <= MOST_EXPERTS:
        spread = [1, 4, 2, 6, 0, 3, 5, 7]
        return set([i for i in spread if i < n][:top_k])
    return set([1, 4, 2][:top_k])


def plus(x: float, y: float) -> tuple[Mark, ...]:
    """A circle in which what comes in is added."""
    return (
        Rect(x - 9, y - 9, 18, 18, "page", "line", 9, 1.5),
        Line(((x - 5, y), (x + 5, y))),
        Line(((x, y - 5), (x, y + 5))),
    )


def picture(block: Block) -> Figure | None:
    """The mask of an attention over its own tokens."""
    own = isinstance(block, LatentAttention) or (isinstance(block, Attention) and not block.cross)
    return mask(block) if own and isinstance(block, (Attention, LatentAttention)) else None
