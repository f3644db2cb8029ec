"""How long from a cold process to the first token of "hi"? Ours beside llama.cpp's Python binding, run in turn.

    python benchmarks/first_token.py [--runs 5] [--json]

Each run is a new process: interpreter, imports, the model opened, the prompt read, one token made, all on warm disk caches.
llama.cpp is measured if `llama-cpp-python` is installed (0.3.36 was used for the figures in LOG.md).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

from ordito.checkpoint import store

MODELS = ("smollm2", "gemma3-270m")
PEER = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
model.create_completion("hi", max_tokens=1, temperature=0)
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in MODELS:
        path = str(store.locate(name).path)
        ours = [sys.executable, "-m", "ordito", "run", name, "hi", "--max-tokens", "1", "--temperature", "0"]
        theirs = [sys.executable, "-c", PEER, path]
        commands = {"ours": ours} | ({"peer": theirs} if find_spec("llama_cpp") else {})
        times: dict[str, list[float]] = {who: [] for who in commands}
        for run in range(arguments.runs + 1):
            for who, command in commands.items():
                elapsed = seconds(command)
                if run:  # the first of each only warms the disk cache
                    times[who].append(elapsed)
        median = {who: round(statistics.median(values), 2) for who, values in times.items()}
        ratio = round(median["ours"] / median["peer"], 2) if "peer" in median else None
        row = {"what": f"cold process to first token, {name}", "unit": "s", **median, "ratio": ratio, "cores": os.cpu_count()}
        print(json.dumps(row) if arguments.json else "  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
