"""Ordito's native runtime beside llama.cpp, on the same files, in turn.

    python benchmarks/versus_llama_cpp.py --llama-cpp BUILD/bin [--models smollm2,gemma3-270m] [--json]

BUILD is a native build of llama.cpp with `llama-bench` and `llama-batched-bench` (cmake -DCMAKE_BUILD_TYPE=Release
-DGGML_NATIVE=ON); for a comparison with `--kernels avx2`, with GGML_NATIVE off and GGML_AVX2, GGML_FMA, GGML_F16C and GGML_BMI2
on. Both use two threads by default. Figures: prefill of 512 and 2,048 tokens; decode of 128 tokens, as in llama-bench, after
32, 1,024 and 4,096; decode of 8 and 32 sequences; decode while another process takes a core; peak memory. We decode greedily,
and finding the most probable token is part of the time; llama-bench decodes arbitrary tokens, without choosing them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from peers import Figure, arguments, faster, in_turn, peak, report, smaller

from ordito.accounting import account
from ordito.checkpoint.outline import outline
from ordito.fitting.machine import arithmetic_shares, this_machine
from ordito.native.runtime import NativeRuntime

PROMPTS, DEPTHS, SEQUENCES, GENERATED = (512, 2048), (32, 1024, 4096), (8, 32), 128
BUSY = "import os\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\nwhile True: pass"
READ = """
import sys, ordito
from pathlib import Path
model = ordito.load(Path(sys.argv[1]))
model.tokenizer
session = model.runtime.session()
for ids in (list(range(5, 517)), [1], [2]):
    session.feed(ids)
"""


def ids(n: int) -> list[int]:
    return [(7919 * i + 13) % 30000 + 5 for i in range(n)]


def prefill_rate(runtime: NativeRuntime, n: int) -> float:
    runtime.session().feed(ids(n))  # a warm-up, as in llama-bench
    session, start = runtime.session(), time.perf_counter()
    session.feed(ids(n))
    return n / (time.perf_counter() - start)


def decode_rate(runtime: NativeRuntime, depth: int) -> float:
    session = runtime.session()
    token = int(session.feed(ids(depth)).argmax())
    start = time.perf_counter()
    for _ in range(GENERATED):
        token = int(session.feed([token], greatest=1).argmax())
    return GENERATED / (time.perf_counter() - start)


def batched_decode_rate(runtime: NativeRuntime, sequences: int) -> float:
    made = [runtime.sequence() for _ in range(sequences)]
    tokens = [int(runtime.step([(one, ids(64 + n)[n:])], [63]).argmax()) for n, one in enumerate(made)]
    start = time.perf_counter()
    for _ in range(GENERATED):
        parts = [(one, [token]) for one, token in zip(made, tokens, strict=True)]
        tokens = runtime.step(parts, range(sequences), greatest=1).argmax(axis=1).tolist()
    return sequences * GENERATED / (time.perf_counter() - start)


class LlamaCpp:
    """llama.cpp's benchmark programs."""

    def __init__(self, folder: Path, file: Path, threads: int) -> None:
        self.folder, self.file, self.threads = folder, file, str(threads)

    def _run(self, program: str, *options: str) -> str:
        command = [str(self.folder / program), "-m", str(self.file), "-t", self.threads, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def rate(self, *options: str) -> float:
        return float(json.loads(self._run("llama-bench", "-r", "1", "-o", "json", *options))[-1]["avg_ts"])

    def batched_decode(self, sequences: int) -> float:
        tokens = 64 + GENERATED
        options = ("-c", str(tokens * sequences + 256), "-b", "2048", "-ub", "512", "-npp", "64", "-ntg", str(GENERATED))
        table = self._run("llama-batched-bench", "-tb", self.threads, *options, "-npl", str(sequences))
        row = [line for line in table.splitlines() if line.startswith("|")][-1]
        return float(row.strip("|").split("|")[7])


def figures(name: str, folder: Path, threads: int, times: int, dtype: str | None, kernels: str | None) -> Iterator[Figure]:
    from ordito.checkpoint.checkpoint import open_checkpoint

    known = outline(name, download=True)
    checkpoint = open_checkpoint(known.path)
    (file,) = checkpoint.files
    runtime = NativeRuntime(checkpoint, dtype, threads=threads, kernels=kernels)
    peer = LlamaCpp(folder, file, threads)
    machine = this_machine(memory=0, threads=threads, kernels=kernels)
    found = account(known.spec, known.stored)
    shares = arithmetic_shares(found, machine, runtime.dtype)

    def decode_limit(depth: int) -> float:
        return machine.bandwidth / (found.weights_read - runtime.spared + found.kv_cache.at(depth))

    for n in PROMPTS:
        ours, theirs = in_turn(lambda n=n: prefill_rate(runtime, n), lambda n=n: peer.rate("-p", str(n), "-n", "0"), times)
        yield faster(f"{name}: prefill, {n}", ours, theirs, n / machine.seconds(found.flops.prefill(n).total, shares))
    for depth in DEPTHS:
        options = ("-p", "0", "-n", str(GENERATED), "-d", str(depth))
        ours, theirs = in_turn(lambda d=depth: decode_rate(runtime, d), lambda o=options: peer.rate(*o), times)
        yield faster(f"{name}: decode after {depth}", ours, theirs, decode_limit(depth))
    for sequences in SEQUENCES:
        ours, theirs = in_turn(
            lambda n=sequences: batched_decode_rate(runtime, n), lambda n=sequences: peer.batched_decode(n), times
        )
        yield faster(f"{name}: decode, {sequences} sequences", ours, theirs)
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        options = ("-p", "0", "-n", str(GENERATED), "-d", "32")
        ours, theirs = in_turn(lambda: decode_rate(runtime, 32), lambda: peer.rate(*options), times)
    finally:
        busy.kill()
        busy.wait()
    yield faster(f"{name}: decode after 32, one core busy", ours, theirs)
    size = os.path.getsize(file)
    own = peak([sys.executable, "-c", READ, str(known.path)])
    bench = [str(folder / "llama-bench"), "-m", str(file), "-t", str(threads), "-p", "512", "-n", "2", "-r", "1"]
    theirs = peak(bench)
    yield smaller(f"{name}: peak memory over file size", own / size, theirs / size, "times")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="the folder that contains llama-bench")
    parser.add_argument("--models", default="smollm2,gemma3-270m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", help="our arithmetic (int12, int8, float32)")
    parser.add_argument("--kernels", help="our instruction set; the fastest of this machine by default")
    asked = parser.parse_args()
    report(
        (
            figure
            for name in asked.models.split(",")
            for figure in figures(name, asked.llama_cpp, asked.threads, asked.times, asked.dtype, asked.kernels)
        ),
        asked.json,
    )


if __name__ == "__main__":
    main()
