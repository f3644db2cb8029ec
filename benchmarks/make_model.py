"""A GGUF file with the shape of a published model and random weights, to measure speed without a download.

    python benchmarks/make_model.py "Llama 3.2 1B" llama-1b.gguf [--type q4_k_m]
    python benchmarks/versus_llama_cpp.py --llama-cpp BUILD/bin --models ./llama-1b.gguf

The vocabulary is SmolLM2's, padded with meaningless tokens. Weights are quantized as real ones are: 1B takes about a minute on
two cores, 8B six.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np

from ordito import catalogue
from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.convert import to_gguf
from ordito.families import spec_from_config
from ordito.spec import Spec


class RandomWeights(Mapping[str, np.ndarray]):
    """Random tensors by canonical name, made on access: matrices of variance 1 / columns, so that products
    keep the variance of their input; biases of 0, norms of 1."""

    def __init__(self, spec: Spec) -> None:
        self.shapes = spec.tensors()

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        if len(shape) == 1:
            return np.full(shape, 0 if name.endswith("bias") else 1, np.float32)
        random = np.random.default_rng(crc32(name.encode()))
        return random.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def vocabulary(size: int) -> dict[str, object]:
    """GGUF metadata with a tokenizer of `size` tokens."""
    keys = dict(open_checkpoint(store.locate("smollm2").path).metadata)
    tokens, types = list(keys["tokenizer.ggml.tokens"]), list(map(int, keys["tokenizer.ggml.token_type"]))
    normal = 1
    more = range(size - len(tokens))
    return keys | {
        "tokenizer.ggml.tokens": tokens + [f"<filling {number}>" for number in more],
        "tokenizer.ggml.token_type": types + [normal for _ in more],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a name of `ordito catalogue`")
    parser.add_argument("output", type=Path)
    parser.add_argument("--type", default="q4_k_m")
    given = parser.parse_args()
    spec = spec_from_config(catalogue.find(given.model).config)
    keys = vocabulary(spec.vocab_size)
    to_gguf(given.output, spec, RandomWeights(spec), keys, name=given.output.stem, dtype=given.type)


if __name__ == "__main__":
    main()
