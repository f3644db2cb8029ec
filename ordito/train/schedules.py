"""Learning rates as functions of the step: a share of the peak, as transformers' schedulers give it."""

from __future__ import annotations

import math

from ordito.train.config import Config


def warmup_steps(config: Config, total: int) -> int:
    """Steps of the warm-up: `warmup` itself, or that share of all steps where it is below 1."""
    return math.ceil(config.warmup * total) if config.warmup < 1 else int(config.warmup)


def share_of_peak(config: Config, step: int, total: int) -> float:
    """The factor of the learning rate in the optimizer step `step` (0, 1, ...) of `total`.

    It rises from 0 over the warm-up; then it stays (constant), falls along half a cosine or a line to `final`, or stays and
    falls along a line over the last `decay` of all steps (wsd, arXiv:2404.06395).
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
