"""FLOPs equal those that PyTorch's counter sees in real forward passes: transformers', and ours where experts are chosen."""

from __future__ import annotations

import pytest
import torch
from test_laws_of_cases import module_of
from tiny import CASES, SOURCE, make, output, spec_of, token_ids
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ordito.accounting import Flops
from ordito.families.config import leaves
from ordito.nn import Transformer
from ordito.spec import Attention, LatentAttention, MixtureOfExperts, Spec

LENGTH = 20
SOURCES = SOURCE.shape[1]
DENSE = [name for name in CASES if not any(leaves(spec_of(name), MixtureOfExperts))]


def counted(run) -> int:
    # Only the written-out attention is made of products that the counter knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def ours(spec: Spec, tokens: int) -> int:
    """What we say of `tokens` tokens, but with every query compared with every key, as both do before they mask."""
    flops = Flops(spec)
    work = flops.forward(tokens, source=SOURCES).weights + sum(whole(block, tokens) for _, block in spec.attentions)
    return work + (flops.encode(SOURCES).total if spec.encoder is not None else 0)


def whole(block: Attention | LatentAttention, tokens: int) -> int:
    if isinstance(block, LatentAttention):
        return 2 * block.n_heads * (block.q_dim + block.v_dim) * tokens**2
    return 4 * block.n_heads * block.head_dim * tokens * (SOURCES if block.cross else tokens)


def run(module: Transformer, ids: torch.Tensor) -> None:
    source = module.encode(SOURCE) if module.spec.encoder is not None else None
    hidden = module.hidden(ids, source=source)
    if module.spec.head is not None:
        module.project(hidden)


@pytest.mark.parametrize("tokens", [1, LENGTH])
@pytest.mark.parametrize("name", CASES)
def test_as_many_as_in_our_forward_pass(name, tokens):
    module = module_of(name)
    assert counted(lambda: run(module, token_ids(tokens))) == ours(module.spec, tokens)


@pytest.mark.parametrize("tokens", [1, LENGTH])
@pytest.mark.parametrize("name", DENSE)
def test_as_many_as_in_the_forward_pass_of_transformers(name, tokens):
    model, spec = make(name), spec_of(name)
    pooler = 2 * spec.pooler.d_in * spec.pooler.d_out if spec.pooler and spec.head is None else 0  # once a text
    assert counted(lambda: output(model, token_ids(tokens))) == ours(spec, tokens) + pooler
