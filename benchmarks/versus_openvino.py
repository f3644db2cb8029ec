"""Ordito's native runtime beside OpenVINO GenAI, on the same model, in turn.

    python benchmarks/versus_openvino.py --python PYTHON --model FOLDER [--dtype int8] [--kernels avx2] [--json]

PYTHON has `openvino-genai`. To export the model, in an environment with `optimum-intel`:

    ordito convert smollm2 MODEL
    optimum-cli export openvino --task text-generation-with-past --weight-format int4 --group-size 64 --ratio 1.0 --sym \\
        -m MODEL FOLDER

Figures: prefill of 512 and 2,048 tokens; decode of 128 after 32 and 1,024.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from peers import Figure, arguments, faster, in_turn, report
from versus_llama_cpp import GENERATED, decode_rate, prefill_rate

import ordito
from ordito.native.runtime import NativeRuntime

PROMPTS, DEPTHS = (512, 2048), (32, 1024)
PEER = """
import itertools, sys, time
import numpy, openvino, openvino_genai as genai
pipeline = genai.LLMPipeline(sys.argv[1], "CPU", INFERENCE_NUM_THREADS=int(sys.argv[2]))
calls = itertools.count()
def seconds(prompt, answer):  # a new prompt each time: OpenVINO caches prefixes
    first = next(calls)
    ids = numpy.array([[(7919 * i + 13 * first) % 30000 + 5 for i in range(prompt)]], numpy.int64)
    asked = genai.GenerationConfig(max_new_tokens=answer, min_new_tokens=answer, do_sample=False, ignore_eos=True)
    start = time.perf_counter()
    pipeline.generate(genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids))), asked)
    return time.perf_counter() - start
seconds(32, 8)
for line in sys.stdin:
    prompt, answer = map(int, line.split())
    seconds(prompt, 1)  # a warm-up, as ours has
    first = seconds(prompt, 1)
    print(answer / (seconds(prompt, 1 + answer) - first) if answer else prompt / first, flush=True)
"""


class OpenVino:
    """OpenVINO in its own process, stopped (SIGSTOP) between measurements, since its idle threads would spin on our cores."""

    def __init__(self, python: str, folder: Path, threads: int) -> None:
        command = [python, "-c", PEER, str(folder), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, prompt: int, answer: int) -> float:
        """Tokens per second: of prefill if `answer` is 0, else of decoding `answer` tokens after the prompt."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        print(prompt, answer, file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"OpenVINO ended with {self.process.wait()}: see its error above")
        self.process.send_signal(signal.SIGSTOP)
        return float(line)


def figures(ours: str, peer: OpenVino, threads: int, times: int, dtype: str | None, kernels: str | None) -> Iterator[Figure]:
    runtime = NativeRuntime(ordito.load(ours).checkpoint, dtype, threads=threads, kernels=kernels)
    for n in PROMPTS:
        rates = in_turn(lambda n=n: prefill_rate(runtime, n), lambda n=n: peer.rate(n, 0), times)
        yield faster(f"{ours}: prefill, {n}", *rates)
    for depth in DEPTHS:
        rates = in_turn(lambda d=depth: decode_rate(runtime, d), lambda d=depth: peer.rate(d, GENERATED), times)
        yield faster(f"{ours}: decode after {depth}", *rates)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--python", required=True, help="an interpreter with openvino-genai")
    parser.add_argument("--model", type=Path, required=True, help="what optimum-cli exported")
    parser.add_argument("--ours", default="smollm2", help="the same model here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", help="our arithmetic (int12, int8, float32)")
    parser.add_argument("--kernels", help="our instruction set; the fastest of this machine by default")
    asked = parser.parse_args()
    peer = OpenVino(asked.python, asked.model, asked.threads)
    try:
        report(figures(asked.ours, peer, asked.threads, asked.times, asked.dtype, asked.kernels), asked.json)
    finally:
        peer.process.kill()


if __name__ == "__main__":
    main()
