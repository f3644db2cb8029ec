"""The placement of a layer's norms and branches, by its usual names."""

from __future__ import annotations

from itertools import pairwise

from ordito.drawing.plan import flat
from ordito.spec import Block, Norm, Residual, Sum


def wiring(layer: Block) -> str:
    """Pre-norm, post-norm, sandwich norms, norm after the block, parallel: all that is found in the layer.

    >>> from ordito.spec import Chain, Dense
    >>> norm, inner = Norm(d_model=4, kind="rms", eps=1e-6), Dense(name="mlp", d_in=4, d_out=4)
    >>> wiring(Residual(Chain(norm, inner))), wiring(Chain(Residual(inner), norm))
    ('pre-norm', 'post-norm')
    """
    return ", ".join(dict.fromkeys(_words(layer))) or "no norms"


def _words(block: Block) -> list[str]:
    parts = flat(block)
    if len(parts) > 1:
        after = any(isinstance(first, Residual) and isinstance(then, Norm) for first, then in pairwise(parts))
        return ["post-norm"] * after + [word for part in parts for word in _words(part)]
    if isinstance(block, Sum):
        return [word for part in block.parts for word in _words(part)]
    return _inside(flat(block.inner)) if isinstance(block, Residual) else []


def _inside(parts: list[Block]) -> list[str]:
    """The names for the parts of a residual branch."""
    before, after = isinstance(parts[0], Norm), len(parts) > 1 and isinstance(parts[-1], Norm)
    names = {(True, True): ["sandwich norms"], (True, False): ["pre-norm"], (False, True): ["norm after the block"]}
    parallel = ["parallel branches"] * any(isinstance(part, Sum) for part in parts)
    return names.get((before, after), []) + parallel + [word for part in parts for word in _words(part)]
