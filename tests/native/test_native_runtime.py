"""The native runtime as the engine uses it, on a tiny model; tests/oracles compares its numbers with PyTorch's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

import ordito
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import OrditoError
from ordito.native.runtime import ARITHMETIC, NativeRuntime
from ordito.threads import quota, usable_threads

DAMAGED = int(os.environ.get("ORDITO_DAMAGED", 40))
"""Damaged files of each dtype."""
IDS = [5, 6, 7, 8, 9, 10, 11, 12, 13]


@pytest.fixture(scope="module")
def runtime(folder):
    return NativeRuntime(open_checkpoint(folder), threads=2)


def test_results_do_not_depend_on_threads(folder, runtime):
    for threads in (1, 3):
        other = NativeRuntime(open_checkpoint(folder), threads=threads)
        assert np.array_equal(other.logits(IDS), runtime.logits(IDS))


def test_rewinding_equals_a_shorter_text(runtime):
    session = runtime.session()
    session.feed(IDS)
    session.rewind(4)
    assert session.length == 4
    assert np.array_equal(session.feed(IDS[4:6]), runtime.session().feed(IDS[:6]))


def test_forks_share_a_prefix_only(runtime):
    first = runtime.sequence()
    runtime.step([(first, IDS)], [len(IDS) - 1])
    second = first.fork(5)
    assert second.length == 5
    one = runtime.step([(first, [20])], [0])
    other = runtime.step([(second, IDS[5:])], [len(IDS) - 6])
    assert np.array_equal(other, runtime.logits(IDS)[-1:])
    assert np.array_equal(one, runtime.logits([*IDS, 20])[-1:])


@pytest.mark.parametrize(
    ("ids", "wanted", "greatest", "message"),
    [
        ([], [0], 0, "got a text without tokens"),
        (IDS, [len(IDS)], 0, f"row {len(IDS)} is not read, expected 0 to {len(IDS) - 1}"),
        (IDS, [-1], 1, "row -1 is not read"),
        (IDS, [0], -1, "got -1 for how many of the greatest logits"),
        (IDS, [0], 1.5, "got 1.5 for how many"),
        ([1.5], [0], 0, "token id 1.5 is not in the vocabulary"),
        (["a"], [0], 0, "token id 'a' is not in the vocabulary"),
        ([10**30], [0], 0, "token id 1000000000000000000000000000000 is not"),
        ([-(10**30)], [0], 0, "token id -1000000000000000000000000000000 is not"),
    ],
)
def test_bad_steps_are_refused(runtime, ids, wanted, greatest, message):
    sequence = runtime.sequence()
    with pytest.raises(OrditoError, match=message):
        runtime.step([(sequence, ids)], wanted, greatest)
    assert sequence.length == 0


def test_a_sequence_of_another_runtime_is_refused(folder, runtime):
    other = NativeRuntime(open_checkpoint(folder), threads=1)
    with pytest.raises(OrditoError, match="a sequence of another runtime"):
        runtime.step([(other.sequence(), IDS)], [0])


def test_a_sequence_in_use_by_another_thread_is_refused(runtime):
    sequence = runtime.sequence()
    refused, read = [], []

    def feed():
        for _ in range(40):
            try:
                runtime.step([(sequence, IDS)], [0])
                read.append(len(IDS))
            except OrditoError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=feed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sequence.length == sum(read)
    assert all("another thread reads this sequence" in message for message in refused)
    again = runtime.logits(IDS * (len(read) + 1))[-1]
    assert np.array_equal(runtime.step([(sequence, IDS)], [len(IDS) - 1])[0], again)


FORKED = """
import os, sys
from pathlib import Path
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.native.runtime import NativeRuntime
runtime = NativeRuntime(open_checkpoint(Path(sys.argv[1])), threads=2)
child = os.fork()  # some weights may not be packed yet
logits = runtime.logits([5, 6, 7]).tobytes()
if child == 0:
    os.write(1, logits)
    os._exit(0)  # as multiprocessing ends a child
assert os.waitpid(child, 0)[1] == 0
sys.stdout.buffer.write(logits)
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()", "del runtime; sys.exit()"])
def test_a_forked_process_can_use_the_runtime(folder, runtime, end):
    # A child that frees the runtime does not wait for threads that only its parent has.
    code = FORKED.replace("os._exit(0)", end)
    output = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60, capture_output=True).stdout
    assert output == 2 * runtime.logits([5, 6, 7]).tobytes()


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.native.runtime import NativeRuntime
runtime = NativeRuntime(open_checkpoint(Path(sys.argv[1])), threads=1)
ids = [5, 6, 7, 8, 9]
expected = runtime.logits(ids * 2)[-1]
sequence = runtime.sequence()
runtime.step([(sequence, ids)], [4])
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (8 << 20), resource.RLIM_INFINITY))
many = ids * 4000
try:
    runtime.step([(sequence, many)], range(len(many)))
    raise SystemExit("the step had enough memory")
except MemoryError:
    pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert sequence.length == 5
assert np.array_equal(runtime.step([(sequence, ids)], [4])[0], expected)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer needs address space of its own")
def test_a_step_out_of_memory_leaves_the_sequence_as_it_was(folder):
    subprocess.run([sys.executable, "-c", OUT_OF_MEMORY, str(folder)], check=True, timeout=60)


def test_empty_steps_and_repeated_sequences_are_refused(runtime):
    sequence = runtime.sequence()
    with pytest.raises(OrditoError, match="the same sequence twice"):
        runtime.step([(sequence, IDS), (sequence, IDS)], [0])
    with pytest.raises(OrditoError, match="without tokens"):
        runtime.step([], [])
    with pytest.raises(OrditoError, match="without tokens"):
        runtime.session().feed([])


def test_any_number_of_greatest_logits(runtime):
    assert np.array_equal(runtime.session().feed(IDS, greatest=2**40), runtime.session().feed(IDS))


def test_unknown_kernels_and_too_many_threads(folder):
    checkpoint = open_checkpoint(folder)
    with pytest.raises(OrditoError, match="no kernels"):
        NativeRuntime(checkpoint, kernels="mmx")
    with pytest.raises(OrditoError, match="expected 1 to 1024"):
        NativeRuntime(checkpoint, threads=10**5)


def test_sessions_in_several_threads(runtime):
    expected, found = runtime.session().feed(IDS), {}

    def work(number):
        session = runtime.session()
        for id in IDS:
            found[number] = session.feed([id])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected) for number in range(4))


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(OrditoError, match="did you mean float32"):
        NativeRuntime(open_checkpoint(folder), "float23")
    assert set(ARITHMETIC) == {"int8", "int12", "float32"}


def test_usable_threads_respect_the_cgroup_quota(tmp_path):
    cpus = tmp_path / "cpus"
    assert usable_threads(tmp_path, cpus) >= 1
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert quota(tmp_path) == 1.5
    assert usable_threads(tmp_path, cpus) == 1
    (tmp_path / "cpu.max").write_text("max 100000")
    assert quota(tmp_path) is None


@pytest.mark.filterwarnings("ignore::ordito.errors.OrditoWarning")
@pytest.mark.parametrize("dtype", ["q4_0", "q8_0", "f16"])
def test_damaged_files_are_refused_or_run(folder, tmp_path, dtype):
    """A damaged file raises only our own errors; with the sanitizers this checks memory accesses, too."""
    path, random = tmp_path / "model.gguf", np.random.default_rng(len(dtype))
    ordito.save(ordito.load(folder), path, dtype=dtype)
    sound = np.frombuffer(path.read_bytes(), np.uint8)
    header = len(sound) // 3
    for _ in range(DAMAGED):
        damaged = sound.copy()
        where = random.integers(0, random.choice([header, len(sound)]), random.integers(1, 9))
        damaged[where] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(0, 256)], len(where))
        path.write_bytes(damaged.tobytes())
        with suppress(OrditoError):
            NativeRuntime(open_checkpoint(path), threads=2).session().feed([1, 2, 3])
