"""Embeddings beside sentence-transformers on PyTorch and beside ONNX Runtime: all-MiniLM-L6-v2, stored in fp32, in turn.

    python benchmarks/versus_embedders.py [--onnx-python PYTHON] [--dtype TYPE] [--json]

256 sentences of 20 and of 200 words, two threads each, each side in its own process (idle threads that spin would slow the
others); for the peers, which compute in fp32, the better of batches of 32 and 128. sentence-transformers runs in this
interpreter; PYTHON has `onnxruntime`, `torch`, `onnxscript` and `transformers`, and exports the model first. Ours multiplies
integers of 16 bits where the processor has VNNI, unless TYPE is float32. Fails if the embeddings differ. The limit is the peak
of our arithmetic on data in registers.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from peers import Figure, arguments, faster, in_turn, report

import ordito
from ordito.checkpoint import store
from ordito.checkpoint.outline import held
from ordito.fitting.machine import arithmetic_shares, this_machine

WORDS = "time year people way day man thing woman life child world school state family student group country problem hand part"
COUNT, LENGTHS, THREADS, MAX_TOKENS = 256, (20, 200), 2, 256
"""Number of sentences, words per sentence, threads, and tokens after which MiniLM truncates."""

SERVE = """
import json, os, sys, time
import numpy as np
os.environ["TOKENIZERS_PARALLELISM"] = "false"
def serve(embed, batches):
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        rates, vectors = [], None
        for batch in batches:
            start = time.perf_counter()
            vectors = embed(ask["texts"], batch)
            rates.append(len(ask["texts"]) / (time.perf_counter() - start))
        print(json.dumps({"rate": max(rates), "vectors": np.asarray(vectors)[:8].tolist()}), file=out, flush=True)
out, sys.stdout = sys.stdout, sys.stderr
"""
OURS = """
import ordito
model = ordito.load(sys.argv[1], backend="native", dtype=(sys.argv[2:] or [None])[0])
serve(lambda texts, batch: model.embed(texts), [0])
"""
SENTENCE_TRANSFORMERS = """
import torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(int(sys.argv[2]))
model = SentenceTransformer(sys.argv[1], device="cpu")
serve(lambda texts, batch: model.encode(texts, batch_size=batch, show_progress_bar=False), [32, 128])
"""
ONNX = """
import onnxruntime, torch
from transformers import AutoModel, AutoTokenizer
folder, threads, file = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
some = tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt")
names = ["input_ids", "attention_mask"]
axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=512)}
torch.onnx.export(Hidden(), tuple(some[name] for name in names), file, input_names=names, output_names=["hidden"],
                  dynamic_shapes=[axes, axes], dynamo=True, external_data=False)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
def embed(texts, batch):
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = [None] * len(texts)
    for first in range(0, len(texts), batch):
        some = order[first : first + batch]
        fed = tokenizer([texts[i] for i in some], padding=True, truncation=True, max_length=256, return_tensors="np")
        mask = fed["attention_mask"]
        (hidden,) = session.run(None, {name: fed[name].astype("int64") for name in names})
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        for i, vector in zip(some, mean / np.linalg.norm(mean, axis=1, keepdims=True)):
            found[i] = vector
    return found
serve(embed, [32, 128])
"""


class Embedder:
    """A process that embeds texts on request."""

    def __init__(self, python: str, code: str, *options: str) -> None:
        command = [python, "-c", SERVE + code, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self._answer() != "ready":
            raise SystemExit(f"{python} could not load its embedder: are its packages installed?")

    def _answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, texts: list[str]) -> dict:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"texts": texts}) + "\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def rate(self, texts: list[str]) -> float:
        return self.ask(texts)["rate"]


def limits(folder: str, dtype: str | None) -> Callable[[list[str]], float]:
    """A function from texts to the sentences per second that the peak of our arithmetic allows."""
    model = ordito.load(folder, backend="native", dtype=dtype)
    found, tokenizer = ordito.account(model.spec, held(model.checkpoint)), model.tokenizer
    machine = this_machine(memory=0)
    shares = arithmetic_shares(found, machine, dtype)

    def limit(texts: list[str]) -> float:
        lengths = [min(len(tokenizer.encode(text)), MAX_TOKENS) for text in texts]
        return len(texts) / machine.seconds(sum(found.flops.forward(length).total for length in lengths), shares)

    return limit


def figures(peers: dict[str, Embedder], ours: Embedder, limit: Callable[[list[str]], float], times: int) -> Iterator[Figure]:
    choose = random.Random(0)
    for length in LENGTHS:
        texts = [" ".join(choose.choices(WORDS.split(), k=length)) for _ in range(COUNT)]
        mine = np.array(ours.ask(texts)["vectors"])
        for name, peer in peers.items():
            cosines = (mine * np.array(peer.ask(texts)["vectors"])).sum(axis=1)
            assert cosines.min() > 0.99999, f"{name} gives different embeddings: cosines {cosines}"
            a, b = in_turn(partial(ours.rate, texts), partial(peer.rate, texts), times)
            yield faster(f"MiniLM, {length} words, beside {name}", a, b, limit(texts), "sentences/s")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--onnx-python", help="an interpreter with onnxruntime, torch, onnxscript, transformers")
    parser.add_argument("--dtype", help="our arithmetic (int12, int8, float32)")
    given = parser.parse_args()
    folder = str(store.locate("minilm").path)
    with tempfile.TemporaryDirectory() as work:
        peers = {"sentence-transformers": Embedder(sys.executable, SENTENCE_TRANSFORMERS, folder, str(THREADS))}
        if given.onnx_python:
            file = str(Path(work) / "minilm.onnx")
            peers["ONNX Runtime"] = Embedder(given.onnx_python, ONNX, folder, str(THREADS), file)
        ours = Embedder(sys.executable, OURS, folder, *filter(None, [given.dtype]))
        report(figures(peers, ours, limits(folder, given.dtype), given.times), given.json)


if __name__ == "__main__":
    main()
