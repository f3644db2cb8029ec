"""Predictions beside measurements: rates of `ordito fit` and of `ordito bench`, predicted and peak memory.

    python benchmarks/fit_vs_bench.py [--models smollm2,gemma3-270m] [--json]

One measurement of the machine serves all predicted rates. Each peak of memory is that of a fresh process (VmHWM, Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from ordito.accounting import account
from ordito.checkpoint.outline import outline
from ordito.engine.backends import load_runtime
from ordito.fitting import fit, this_machine, vocabulary_size
from ordito.fitting.bench import bench

CONTEXTS = (256, 1024, 4096, 8000)
PEAK = """
import sys, ordito
name, tokens = sys.argv[1], int(sys.argv[2])
model = ordito.load(name)
prompt = [(7919 * i + 13) % model.spec.vocab_size for i in range(tokens - 4)]
model.tokenizer
session = model.runtime.session()
for ids in (prompt, [1], [2], [3], [4]):
    session.feed(ids)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peak(name: str, tokens: int) -> int:
    """Peak memory, in bytes, of a fresh process that prefills and decodes `tokens` tokens in all."""
    done = subprocess.run([sys.executable, "-c", PEAK, name, str(tokens)], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


def figures(name: str):
    known = outline(name, download=True)
    machine = this_machine()
    words = vocabulary_size(known)
    predicted = {
        context: fit(known.spec, known.stored, file_bytes=known.file_bytes, vocabulary=words, context=context, machine=machine)
        for context in (64, *CONTEXTS)
    }
    for context in CONTEXTS:
        memory = predicted[context].memory.total
        yield {
            "what": f"{name}: memory at {context}",
            "predicted": memory / 1e6,
            "measured": peak(name, context) / 1e6,
            "unit": "MB",
        }
    from ordito.checkpoint.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(known.path)
    found, runtime = account(known.spec, known.stored), load_runtime(checkpoint)
    for test in bench(runtime, found, machine, generated=(32,), depths=(0, 1024), repetitions=3):
        context = 1024 if "@" in test.test else 64
        rate = predicted[context].prefill if test.test.startswith("pp") else predicted[context].decode
        if test.test != "pp512 @ d1024":
            yield {"what": f"{name}: {test.test}", "predicted": rate.predicted, "measured": test.mean, "unit": "tokens/s"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2,gemma3-270m")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    options = parser.parse_args()
    for name in options.models.split(","):
        for figure in figures(name):
            figure["ratio"] = figure["predicted"] / figure["measured"]
            if options.json:
                print(json.dumps(figure), flush=True)
            else:
                print(
                    f"{figure['what']:32} predicted {figure['predicted']:9.1f}  measured {figure['measured']:9.1f} "
                    f"{figure['unit']:9} ratio {figure['ratio']:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
