"""Processes for tests, forked from a server that has imported PyTorch once and done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from pathlib import Path

SECONDS = 300
_IMPORTED = [
    "ordito.train.run",
    "ordito.train.sharding",
    "ordito.train.distributed_checkpoints",
    "torch.distributed.tensor.parallel",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_IMPORTED)


def start(function, *arguments):
    """A process that calls a function of a module."""
    process = _CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def together(function, size, folder, *arguments):
    """Call a function in so many processes of one group of torch.distributed; what one fails with, this fails with."""
    folder.mkdir()
    processes = [start(_member, function, rank, size, folder, arguments) for rank in range(size)]
    deadline = time.monotonic() + SECONDS
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):  # the others wait for it in vain
            break
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    said = "\n".join(path.read_text() for path in sorted(folder.glob("*.failed")))
    assert [process.exitcode for process in processes] == [0] * size, said


def _member(function, rank, size, folder, arguments):
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
        function(*arguments)
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.failed").write_text(traceback.format_exc())
        raise
