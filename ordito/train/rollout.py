"""What a model in training writes itself: many answers at once, each a function of the weights, its prompt and its seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ordito.nn.transformer import Transformer
from ordito.text.tokenizer import Tokenizer
from ordito.train.examples import Example, Text

Seed = Sequence[int]
OWN = "own"
"""What stands beside the tokens of a text that the model wrote the end of."""


@contextmanager
def _answering(module: Transformer) -> Iterator[None]:
    """Without dropout and gradients; the module is afterwards as it was."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def write(
    module: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Seed],
    *,
    max_tokens: int,
    end_ids: Set[int],
    vocab_size: int,
    temperature: float = 1.0,
) -> list[list[int]]:
    """The continuation of each prompt, its end token included, drawn from softmax(logits / temperature); 0 takes the best.

    Each row draws from a generator of its own seed. `vocab_size` leaves out the rows of the head that no token has. The
    module answers without dropout, and is afterwards as it was.
    """
    device = next(module.parameters()).device
    ids_BT, valid_BT = _padded(prompts)
    generators = [np.random.default_rng(list(seed)) for seed in seeds]
    written: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    with _answering(module):
        cache = module.new_cache(len(prompts), ids_BT.shape[1] + max_tokens)
        while open_rows:
            hidden_BTD = module.hidden(ids_BT.to(device), valid=valid_BT.to(device), cache=cache)
            logits_BV = module.project(hidden_BTD[:, -1])[:, :vocab_size].float().cpu()
            ids_BT, valid_BT = torch.zeros_like(ids_BT[:, :1]), torch.zeros_like(valid_BT[:, :1])
            for row in sorted(open_rows):
                token = _drawn(logits_BV[row], temperature, generators[row])
                written[row].append(token)
                if token in end_ids or len(written[row]) == max_tokens:
                    open_rows.remove(row)
                else:
                    ids_BT[row], valid_BT[row] = token, True
    return written


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts (B, T), and which of their places are valid: padded on the left, so that all rows go on at the same place."""
    longest = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
    valid_BT = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids_BT[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        valid_BT[row, longest - len(prompt) :] = True
    return ids_BT, valid_BT


def _drawn(logits_V: Tensor, temperature: float, generator: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    masses_V = (logits_V.double() / temperature).softmax(dim=-1).cumsum(dim=-1).numpy()
    drawn = np.searchsorted(masses_V, generator.random() * masses_V[-1], side="right")
    return min(int(drawn), len(masses_V) - 1)  # a product just below the total may round to it


def answered(
    module: Transformer, tokenizer: Tokenizer, examples: Sequence[Example], seed: tuple[int, int], max_tokens: int, length: int
) -> list[Example]:
    """The examples with their last answer, the last learned tokens in a row, written by the module itself, and marked so.

    What is drawn for a text depends on the seed and its prompt, not on what stands beside it. A text whose prompt leaves no
    room stays, with nothing learned.
    """
    prompts = [_prompt(text) for example in examples for text in example.texts]
    written: list[list[int]] = [[] for _ in prompts]
    roomy = [number for number, prompt in enumerate(prompts) if len(prompt) + max_tokens <= length]
    tight = [number for number, prompt in enumerate(prompts) if length - max_tokens < len(prompt) < length]
    # Rows share one clock, which is not to run beyond the length: those near to it go alone.
    for group in ([roomy] if roomy else []) + [[number] for number in tight]:
        asked = [prompts[number] for number in group]
        found = write(
            module,
            asked,
            [(*seed, zlib.crc32(np.array(prompt, np.int32).tobytes())) for prompt in asked],
            max_tokens=min(max_tokens, length - max(map(len, asked))),
            end_ids=tokenizer.end_ids,
            vocab_size=tokenizer.vocab_size,
        )
        for number, ids in zip(group, found, strict=True):
            written[number] = ids
    texts = iter(_own(prompt, ids) for prompt, ids in zip(prompts, written, strict=True))
    return [replace(example, texts=tuple(next(texts) for _ in example.texts)) for example in examples]


def _prompt(text: Text) -> list[int]:
    """The tokens before the last learned ones in a row; all of them where nothing is learned."""
    learned = np.flatnonzero(text.learn)
    if not len(learned):
        return [int(id) for id in text.ids]
    breaks = np.flatnonzero(np.diff(learned) > 1)
    return [int(id) for id in text.ids[: learned[breaks[-1] + 1] if len(breaks) else learned[0]]]


def _own(prompt: list[int], written: list[int]) -> Text:
    ids = [*prompt, *written]
    learn = [False] * len(prompt) + [True] * len(written)
    return Text.of(ids, learn, **{OWN: np.ones(len(ids), np.bool_)})
