"""Properties of every model: caching, batching and compiling do not change the numbers."""

from __future__ import annotations

import pytest
import torch

from ordito.errors import ContextError, SpecError
from ordito.families import spec_from_config
from ordito.nn import Transformer
from ordito.nn.attention import attend
from ordito.nn.step import Step
from ordito.nn.transformer import MODULES
from ordito.spec import Attention, Block, Chain, Embedding, Head, NextToken, Residual, Rope, Spec, Stack, Sum

SIZES = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": {"model_type": "llama", **SIZES, "attention_bias": True},
    "gemma2": {"model_type": "gemma2", **SIZES, "sliding_window": 5},
    "gemma3": {"model_type": "gemma3_text", **SIZES, "sliding_window": 5},
}
T = 22


def make(name):
    torch.manual_seed(11)
    module = Transformer(spec_from_config(CONFIGS[name])).eval()
    for parameter in module.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def ids(batch=1):
    return torch.randint(0, 61, (batch, T), generator=torch.Generator().manual_seed(2))


def close(a, b):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= 2e-5 * float(b.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [[1] * T, [5, 1, 1, 8, 7], [T - 1, 1]], ids=["one by one", "chunks", "prefill and one"])
@torch.no_grad()
def test_cached_equals_uncached(name, cuts):
    module = make(name)
    cache = module.new_cache(1, T)
    pieces = [module(piece, cache=cache) for piece in ids().split(cuts, dim=1)]
    close(torch.cat(pieces, dim=1), module(ids()))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_batched_equals_single(name, side):
    module = make(name)
    lengths = [T, 9, 1]
    batch, valid = torch.zeros(3, T, dtype=torch.long), torch.zeros(3, T, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(T - length, T) if side == "left" else slice(0, length)
        batch[row, place], valid[row, place] = ids()[0, :length], True
    cache = module.new_cache(3, T + 4)
    prompt = module(batch, valid=valid, cache=cache)
    more = torch.tensor([[7, 8, 9, 10]])
    steps = torch.cat([module(more[:, t : t + 1].expand(3, 1), cache=cache) for t in range(4)], dim=1)
    for row, length in enumerate(lengths):
        alone = module(torch.cat((ids()[:, :length], more), dim=1))[0]
        close(prompt[row][valid[row]], alone[:length])
        close(steps[row], alone[length:])


@torch.no_grad()
def test_a_rewound_cache_is_truncated():
    module = make("gemma3")
    cache = module.new_cache(1, 8)
    module(ids()[:, :12][:, :8], cache=cache)
    cache.rewind(5)
    cache.grow(40)
    close(module(ids()[:, 5:], cache=cache), module(ids())[:, 5:])


@torch.no_grad()
def test_a_full_cache_raises():
    module = make("llama")
    cache = module.new_cache(1, 4)
    with pytest.raises(ContextError, match="4 tokens, but 22"):
        module(ids(), cache=cache)


@torch.no_grad()
def test_an_encoder_has_a_maximum_length():
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 61}
    module = Transformer(spec_from_config({"model_type": "bert", **sizes, "max_position_embeddings": 10}))
    with pytest.raises(ContextError, match="22 tokens, but the model has 10"):
        module.hidden(ids())
    with pytest.raises(SpecError, match="no language-model head"):
        module(ids()[:, :5])
    assert module.pool(module.hidden(ids()[:, :5])).shape == (1, 24)


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_has_the_names_of_the_spec(name):
    module = make(name)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == module.spec.tensors()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_learns(name):
    module = make(name).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        logits = module(ids()[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_compiles_without_a_break(name):
    module = make(name)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    close(compiled(ids(2)), module(ids(2)))


def leaf_kinds(kind=Block):
    for sub in kind.__subclasses__():
        yield from leaf_kinds(sub)
    if not kind.__name__.startswith("_") and not kind.__subclasses__() and kind not in (Chain, NextToken, Residual, Stack, Sum):
        yield kind


def test_every_block_has_a_module():
    assert set(leaf_kinds()) == set(MODULES)


def brute_force_mask(block, length):
    def sees(i, j):
        return (
            (j <= i or not block.causal)
            and (block.window is None or abs(i - j) < block.window)
            and (block.chunk is None or i // block.chunk == j // block.chunk)
        )

    return torch.tensor([[sees(i, j) for j in range(length)] for i in range(length)])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("chunk", [None, 3])
def test_masks_are_what_the_spec_says(causal, window, chunk):
    block = Attention(d_model=8, n_heads=2, n_kv_heads=1, head_dim=4, scale=0.5, causal=causal, window=window, chunk=chunk)
    positions = torch.arange(10)[None]
    assert torch.equal(Step(positions, positions, 10, torch.float32).visible(block)[0, 0], brute_force_mask(block, 10))


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_the_fused_kernel_equals_the_explicit_formula(kv_heads):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, kv_heads, 9, 8), torch.randn(2, kv_heads, 9, 8)
    visible = torch.rand(2, 1, 5, 9) > 0.3
    visible[..., 0] = True
    # A sink of weight 0 selects the explicit formula, and changes nothing.
    written_out = attend(q, k, v, visible, 0.3, sinks_N=torch.full((6,), float("-inf")))
    close(attend(q, k, v, visible, 0.3), written_out)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_partial_rope_rotates_the_first_channels_only(layout):
    from ordito.nn.step import rotate

    rope = Rope(dim=4, theta=100.0, layout=layout)
    positions = torch.arange(3)[None]
    x = torch.randn(1, 2, 3, 10)
    turned = rotate(x, rope, Step(positions, positions, 3, torch.float32))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1, :4], x[:, :, 1, :4])
    close(turned.norm(dim=-1), x.norm(dim=-1))


@torch.no_grad()
def test_layers_without_rope_have_no_positions():
    block = Attention(d_model=8, n_heads=2, n_kv_heads=1, head_dim=4, scale=0.5, causal=False)
    spec = Spec(
        architecture="toy",
        context=16,
        body=Chain(Embedding(vocab_size=9, d_model=8), Stack(layers=(Residual(block),))),
        head=Head(d_model=8, vocab_size=9, tied=False),
    )
    module = Transformer(spec)
    text = torch.tensor([[1, 2, 3, 4]])
    close(module(text.flip(1)).flip(1), module(text))
