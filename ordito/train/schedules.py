"""Learning rate schedules, as factors of the peak; those of transformers' schedulers."""

from __future__ import annotations

import math

from ordito.train.config import Config


def warmup_steps(config: Config, total: int) -> int:
    """Steps of the warm-up: `warmup` itself, or that share of all steps where it is below 1."""
    return math.ceil(config.warmup * total) if config.warmup < 1 else int(config.warmup)


def share_of_peak(config: Config, step: int, total: int) -> float:
    """The learning rate of optimizer step `step` (0, 1, ...) of `total`, as a factor of its peak.

    Linear warm-up from 0; then constant, half a cosine or a line to `final`, or (wsd, warmup-stable-decay, arXiv:2404.06395)
    constant with a linear decay over the last share `decay` of all steps.
    """
    warm = warmup_steps(config, total)
    if step < warm:
        return step / max(1, warm)
    if config.schedule == "constant":
        return 1.0
    begin = max(warm, total - math.ceil(config.decay * total)) if config.schedule == "wsd" else warm
    done = min(1.0, max(0.0, (step - begin) / max(1, total - begin)))
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.final + (1 - config.final) * left
