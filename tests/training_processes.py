"""Runs in several processes, for tests, one after another. A `fault` is what goes wrong in the last process alone."""

from __future__ import annotations

import json

import forked

from ordito.errors import OrditoError
from ordito.train import config_from, fit


def run(jobs, size, folder):
    """What happened in each job, rank by rank: None, or the message of an error; see `together`."""
    forked.together(_one_after_another, size, folder, jobs, folder)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    return {name: [rank[name] for rank in ranks] for name in jobs}


def job(config, resume=False, fault=None):
    """A run as `run` takes it."""
    return {"config": config.to_dict(), "resume": resume, "fault": fault}


def _nan(patch):
    from ordito.train.objective import Objective

    loss = Objective.loss
    patch(Objective, "loss", lambda self, totals, counts: float("nan") * loss(self, totals, counts))


def _stop(patch):
    from ordito.train.stops import Stops

    patch(Stops, "reason", lambda self: "it was asked to")


def _broken(patch):
    import ordito.train.setup as room

    def fail(config):
        raise OrditoError("the model is not there")

    patch(room, "open_subject", fail)


def _full(patch):
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    def fail(self, plan, planner):
        raise OSError(28, "No space left on device")

    patch(HuggingFaceStorageWriter, "write_data", fail)


FAULTS = {"nan": _nan, "stop": _stop, "broken": _broken, "full": _full}


def _one_after_another(jobs, folder):
    import pytest
    import torch.distributed as dist

    rank, met = dist.get_rank(), {}
    for name, job in jobs.items():
        with pytest.MonkeyPatch.context() as patches:
            if job["fault"] and rank == dist.get_world_size() - 1:
                FAULTS[job["fault"]](patches.setattr)
            try:
                result = fit(config_from(job["config"]), resume=job["resume"])
                met[name] = result.stopped
            except OrditoError as error:
                met[name] = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.json").write_text(json.dumps(met))
