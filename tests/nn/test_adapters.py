"""Properties of adapters: attached equals merged, inactive equals the base, and only the adapter is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.checkpoint.adapter import LowRank
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.nn import Transformer
from ordito.nn.adapter import Adapters

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
}
SPEC = spec_from_config({"model_type": "llama", **SIZES})
TIED = spec_from_config({"model_type": "llama", **SIZES, "tie_word_embeddings": True})
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 10, "shared_expert_intermediate_size": 12}
PLAIN = {key: value for key, value in SIZES.items() if key != "attention_bias"}
MOE = spec_from_config({"model_type": "qwen2_moe", **PLAIN, **EXPERTS})
IDS = torch.randint(0, 23, (2, 9), generator=torch.Generator().manual_seed(0))
MODULES = [name.removesuffix(".weight") for name, shape in SPEC.tensors().items() if len(shape) == 2]


def transformer(spec=SPEC):
    torch.manual_seed(0)
    module = Transformer(spec).eval()
    for parameter in module.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def low_rank(module, rank, seed, *, scaling=0.7, dora=False, spec=SPEC):
    random = np.random.default_rng(seed)
    shape = spec.tensors()[f"{module}.weight"]
    embedding = module.startswith("embedding")
    d_out, d_in = shape[::-1] if embedding else shape
    a, b = (random.normal(size=size).astype(np.float32) * 0.3 for size in ((rank, d_in), (d_out, rank)))
    magnitude = random.uniform(0.5, 2, d_out).astype(np.float32) if dora else None
    return LowRank(a, b, scaling, magnitude, embedding)


def logits(module):
    with torch.no_grad():
        return module(IDS)


@settings(max_examples=40, deadline=None)
@given(
    modules=st.lists(st.sampled_from(MODULES), min_size=1, unique=True),
    rank=st.integers(1, 20),
    scaling=st.floats(0.1, 1),  # larger changes make the model itself sensitive to rounding
    dora=st.booleans(),
)
def test_attached_equals_merged_and_inactive_equals_the_base(modules, rank, scaling, dora):
    changes = {name: low_rank(name, rank, i, scaling=scaling, dora=dora) for i, name in enumerate(modules)}
    module, merged = transformer(), transformer()
    for name, change in changes.items():
        weight = merged.get_parameter(f"{name}.weight").data
        was = weight.numpy().T if change.embedding else weight.numpy()
        now = change.merged(was)
        weight.copy_(torch.tensor(now.T if change.embedding else now))
    base, adapters = logits(module), Adapters(module)
    adapters.add("it", changes)
    adapters.use("it")
    expected = logits(merged)
    assert (logits(module) - expected).abs().max() <= 1e-5 * expected.abs().max()
    adapters.use(None)
    assert torch.equal(logits(module), base)
    for name, change in adapters.changes("it").items():
        assert np.array_equal(change.a, changes[name].a)
        assert np.array_equal(change.b, changes[name].b)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_experts_equal_merged_ones_and_merging_is_undone(dora):
    modules = [f"layers.{n}.mlp.experts.{part}" for n in (0, 1) for part in ("gate", "up", "down")]
    random, module = np.random.default_rng(0), transformer(MOE)
    changes = {}
    for path in [*modules, "layers.0.mlp.shared.up"]:
        *experts, d_out, d_in = MOE.tensors()[f"{path}.weight"]
        a, b = (0.3 * random.normal(size=(*experts, *size)).astype(np.float32) for size in ((2, d_in), (d_out, 2)))
        changes[path] = LowRank(a, b, 0.7, random.uniform(0.5, 2, (*experts, d_out)).astype(np.float32) if dora else None)
    merged = transformer(MOE)
    for path, change in changes.items():
        weight = merged.get_parameter(f"{path}.weight").data
        weight.copy_(torch.tensor(change.merged(weight.numpy())))
    base, adapters = logits(module), Adapters(module)
    adapters.add("it", changes)
    adapters.use("it")
    beside, expected = logits(module), logits(merged)
    assert (beside - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (beside - base).abs().max() > 1e-2 * expected.abs().max()
    with adapters.merging():
        assert torch.equal(logits(module), expected)
    assert torch.equal(logits(module), beside)
    adapters.use(None)
    assert torch.equal(logits(module), base)
    assert all(np.array_equal(change.b, adapters.changes("it")[path].b) for path, change in changes.items())


def test_only_the_adapter_learns_and_its_parameters_have_canonical_names():
    module = transformer()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    adapters = Adapters(module)
    adapters.add("it", {"layers.1.mlp.up": low_rank("layers.1.mlp.up", 3, 0, dora=True)})
    adapters.use("it")
    names = ["it.layers.1.mlp.up.a", "it.layers.1.mlp.up.b", "it.layers.1.mlp.up.magnitude"]
    assert [name for name, _ in adapters.named_parameters()] == names
    start = logits(module)
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.5)
    module(IDS).square().mean().backward()
    optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters.parameters())
    assert not torch.equal(logits(module), start)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("spec", [SPEC, TIED])
def test_saved_tensors_are_swapped_in_and_out(spec):
    module = transformer(spec)
    base, names = logits(module), set(module.state_dict())
    table = torch.randn(23, 16)
    other = transformer(SPEC)
    other.load_state_dict(module.state_dict() | {"head.weight": module.get_submodule("head").weight if spec is SPEC else
                                                 module.get_parameter("embedding.tokens.weight")})  # fmt: skip
    other.get_parameter("embedding.tokens.weight").data = table
    adapters = Adapters(module)
    adapters.add("it", {}, {"embedding.tokens.weight": table.numpy()})
    with adapters.using("it"):
        assert torch.equal(logits(module), logits(other))
    assert torch.equal(logits(module), base)
    assert set(module.state_dict()) == names


def test_impossible_names_and_modules_are_refused():
    adapters = Adapters(transformer())
    change = low_rank("layers.0.attention.q", 2, 0)
    adapters.add("it", {"layers.0.attention.q": change})
    for name in ("it", "a.b", "", "forward"):
        with pytest.raises(OrditoError, match="cannot be the name"):
            adapters.add(name, {})
    with pytest.raises(OrditoError, match="did you mean it"):
        adapters.use("its")
    with pytest.raises(OrditoError, match="no such module; did you mean layers.0.attention.q"):
        adapters.add("b", {"layers.0.attention.qq": change})
    with pytest.raises(OrditoError, match="it is a Norm"):
        adapters.add("c", {"norm": change})
    with pytest.raises(OrditoError, match=r"'head\.bias' is no tensor of the base; did you mean head\.weight"):
        adapters.add("e", {}, {"head.bias": np.zeros(23, np.float32)})
    with pytest.raises(OrditoError, match=r"is of \(16, 16\), but the base's weight is of \(8, 16\)"):
        adapters.add("d", {"layers.0.attention.k": change})
