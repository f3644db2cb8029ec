"""Early stopping: the best evaluation so far, and the evaluations since."""

from __future__ import annotations

import math
from dataclasses import asdict

from ordito.train.best import Best


def test_lower_losses_are_better_and_others_are_counted():
    best = Best()
    losses = {1: 3.0, 2: None, 3: 2.0, 4: 2.0, 5: 2.5, 6: 1.0}
    records = [{"step": step} if loss is None else {"step": step, "eval_loss": loss} for step, loss in losses.items()]
    assert [best.improved(record) for record in records[:5]] == [True, False, True, False, False]
    assert best == Best(loss=2.0, step=3, waited=2)
    assert Best(**asdict(best)).improved(records[5])
    assert best.waited == 2
    assert best.improved(records[5])
    assert best == Best(loss=1.0, step=6, waited=0)


def test_nan_is_never_the_best():
    best = Best()
    losses = (math.nan, 2.0, math.nan, 1.0)
    records = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses, 1)]
    assert [best.improved(record) for record in records] == [False, True, False, True]
    assert best == Best(loss=1.0, step=4)
