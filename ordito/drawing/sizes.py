"""Parameter counts of blocks, and number formatting."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ordito.spec import Block, MixtureOfExperts, Spec, Stack
from ordito.spec.combinators import Parts
from ordito.units import plural


def parameters(block: Block) -> int:
    """Learned parameters of a block. Choice biases of routers are left out: a rule updates them, not gradients.

    A table of relative position biases is left out too, since all layers of its stack share it.
    """
    unlearned = (".choice_bias", ".relative_bias.weight")
    return sum(prod(shape) for name, shape in block.tensors() if not name.endswith(unlearned))


def idle(block: Block) -> int:
    """Parameters of a block that are not active for a token: those of the experts that are not chosen."""
    if not isinstance(block, MixtureOfExperts):
        return 0
    router = block.router
    return (router.n_experts - router.top_k) * parameters(block.expert) + router.top_k * idle(block.expert)


def totals(spec: Spec) -> tuple[int, int, int]:
    """Total parameters, those active for one token, and those of multi-token prediction, which the first two leave out."""
    learned = [(name, prod(shape)) for name, shape in spec.tensors().items() if not name.endswith(".choice_bias")]
    ahead = sum(n for name, n in learned if name.startswith("ahead."))
    total = sum(n for _, n in learned) - ahead
    return total, total - sum(idle(leaf) for path, leaf in spec.leaves() if not path.startswith("ahead.")), ahead


def summary(spec: Spec) -> list[str]:
    """The facts of a model: parameters, layers (an encoder's first), width, context."""
    total, active, ahead = totals(spec)
    sizes = [f"{total:,} parameters" + (f" ({brief(active)} active)" if active != total else "")]
    if ahead:
        sizes.append(f"{brief(ahead)} more for MTP")
    source = sum(1 for _ in _layers(spec.encoder)) if spec.encoder is not None else 0
    layers = f"{source} + {spec.n_layers:,} layers" if source else plural(spec.n_layers, "layer")
    return [*sizes, layers, f"d_model {spec.d_model:,}", f"context {spec.context:,}"]


def _layers(block: Block) -> Iterator[Block]:
    if isinstance(block, Stack):
        yield from block.layers
    elif isinstance(block, Parts):
        for part in block.parts:
            yield from _layers(part)


def brief(n: int) -> str:
    """A count with three significant digits.

    >>> [brief(n) for n in (512, 23_040, 41_943_040, 999_600, 8_030_261_248)]
    ['512', '23.0K', '41.9M', '1.00M', '8.03B']
    """
    if n < 1000:
        return str(n)
    value, units = n / 1000, "KMBT"
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{units[0]}"


def number(x: float) -> str:
    """A number in a formula, rounded to five or six significant digits.

    >>> [number(x) for x in (500000.0, 0.1, 1e-06, 0.08838834764831845, 73.32121111929344)]
    ['500,000', '0.1', '1e-06', '0.088388', '73.3212']
    """
    return f"{int(x):,}" if x == int(x) and abs(x) < 1e15 else f"{x:.6g}" if abs(x) >= 1 else f"{x:.5g}"
