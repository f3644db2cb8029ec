"""Time from a cold process to the first token of an answer to "hi", and peak memory: ours beside llama.cpp's, in turn.

    python benchmarks/first_token.py [--python PYTHON] [--models smollm2,gemma3-270m] [--json]

Each run is a new process, with a warm disk cache: interpreter, imports, opening the file, loading weights, vocabulary and
template, prefill of the prompt, one token written. PYTHON has both `ordito`, installed with `pip install .` as a user would,
and `llama-cpp-python`, which runs llama.cpp from Python too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from peers import Figure, arguments, in_turn, peak, report, smaller

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint

PEER = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=2048, n_threads=2, n_threads_batch=2, verbose=False)
if model.metadata.get("tokenizer.chat_template"):
    chunks = model.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=2, temperature=0, stream=True)
    pieces = (chunk["choices"][0]["delta"].get("content") for chunk in chunks)
else:
    pieces = (chunk["choices"][0]["text"] for chunk in model.create_completion("hi", max_tokens=2, temperature=0, stream=True))
print(next(piece for piece in pieces if piece), flush=True)
"""


def first_byte(command: list[str]) -> float:
    """Seconds from the start of a process to the first byte of its output."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        written = process.stdout.read(1)
        elapsed = time.perf_counter() - start
        process.stdout.read()
    if process.returncode or not written:
        raise SystemExit(
            f"{' '.join(command[:3])} ... ended with {process.returncode} and wrote {'some' if written else 'nothing'}"
        )
    return elapsed


def figures(name: str, python: str, times: int) -> Iterator[Figure]:
    (file,) = open_checkpoint(store.locate(name).path).files
    ours = [str(Path(python).with_name("ordito")), "run", name, "hi", "--max-tokens", "2", "--temperature", "0"]
    theirs = [python, "-c", PEER, str(file)]
    for command in (ours, theirs):
        first_byte(command)  # warms the disk cache
    yield smaller(
        f"{name}: cold process to first token", *in_turn(lambda: first_byte(ours), lambda: first_byte(theirs), times), "s"
    )
    size = file.stat().st_size
    yield smaller(f"{name}: peak memory over file size", peak(ours) / size, peak(theirs) / size, "times")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with ordito and llama-cpp-python")
    parser.add_argument("--models", default="smollm2,gemma3-270m")
    asked = parser.parse_args()
    report((figure for name in asked.models.split(",") for figure in figures(name, asked.python, asked.times)), asked.json)


if __name__ == "__main__":
    main()
