"""Adapters in training: initial values, targets, what is trained, saved modules, NF4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from ordito.checkpoint.adapter import open_adapter
from ordito.checkpoint.adapter_names import changes_by_ours
from ordito.errors import ConfigError, OrditoWarning
from ordito.families import spec_from_config
from ordito.nn import Transformer
from ordito.nn.nf4 import LEVELS, Nf4, Nf4Linear, Nf4StackedLinear
from ordito.train.adapters import NAME, attach, merged, write
from ordito.train.settings import LowRankSettings

SIZES = {
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA = {"model_type": "llama", "attention_bias": True, **SIZES}
TIED = {**LLAMA, "tie_word_embeddings": True}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2, **SIZES}
LINEAR = ("linear",)
IDS = torch.randint(0, 23, (2, 9), generator=torch.Generator().manual_seed(0))


def transformer(config=LLAMA):
    torch.manual_seed(0)
    module = Transformer(spec_from_config(config))
    for parameter in module.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def attached(config=LLAMA, kind="lora", seed=0, **settings):
    module = transformer(config)
    return module, attach(module, LowRankSettings(**{"rank": 3, "alpha": 6.0} | settings), kind, seed)


def stirred(adapters):
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapters


def logits(module):
    with torch.no_grad():
        return module(IDS)


def relative(got, expected):
    return (got - expected).abs().max() / expected.abs().max()


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("targets", [LINEAR, ("embedding", "head", "q")])
def test_initial_adapters_change_nothing(kind, targets):
    module, adapters = attached(kind=kind, targets=targets)
    assert relative(logits(module), logits(transformer())) <= (0 if kind == "lora" else 1e-6)
    with pytest.warns(OrditoWarning, match="changes nothing") if kind == "lora" else pytest.MonkeyPatch.context():
        tensors = merged(module, adapters)
    for name, tensor in transformer().state_dict().items():
        assert relative(tensors[name], tensor) <= 1e-6


def test_initial_values_are_those_of_peft():
    module, adapters = attached(kind="dora", targets=("q", "embedding"), rank=8)
    changes = adapters.changes(NAME)
    q, table = changes["layers.0.attention.q"], changes["embedding.tokens"]
    assert 0.95 / 32**0.5 < np.abs(q.a).max() <= 1 / 32**0.5
    assert abs(q.a.mean()) < 0.02
    assert not q.b.any()
    assert not table.a.any()
    assert 0.85 < table.b.std() < 1.15
    weights = module.state_dict()
    assert np.allclose(q.magnitude, weights["layers.0.attention.q.weight"].norm(dim=1), rtol=1e-6)
    assert np.allclose(table.magnitude, weights["embedding.tokens.weight"].norm(dim=0), rtol=1e-6)
    assert q.scaling == 6 / 8
    assert attached(rank=9, root=True)[1].changes(NAME)["layers.0.attention.q"].scaling == 6 / 3


def test_initial_values_depend_on_seed_and_name_only():
    one, few, other = (attached(seed=s, targets=t)[1].changes(NAME) for s, t in ((5, LINEAR), (5, ("v",)), (6, LINEAR)))
    assert few.keys() == {"layers.0.attention.v", "layers.1.attention.v"}
    for path, change in few.items():
        assert np.array_equal(change.a, one[path].a)
        assert not np.array_equal(change.a, other[path].a)
    assert not np.array_equal(one["layers.0.attention.v"].a, one["layers.1.attention.v"].a)


def test_target_linear_is_every_linear_map_of_every_layer():
    attention = {f"layers.{n}.attention.{part}" for n in (0, 1) for part in "qkvo"}
    assert attached(LLAMA)[1].changes(NAME).keys() == attention | {
        f"layers.{n}.mlp.{p}" for n in (0, 1) for p in ("gate", "up", "down")
    }
    experts = attached(MIXTRAL)[1].changes(NAME)
    assert experts.keys() == attention | {f"layers.{n}.mlp.experts.{p}" for n in (0, 1) for p in ("gate", "up", "down")}
    assert experts["layers.0.mlp.experts.up"].a.shape == (3, 3, 32)
    assert attached(targets=("layers.1.mlp", "head"))[1].changes(NAME).keys() == {
        "head", *(f"layers.1.mlp.{p}" for p in ("gate", "up", "down"))
    }  # fmt: skip


def test_impossible_targets_are_refused_before_training():
    for targets, message in {("qq",): "'qq', which is no module's name here", ("attentio",): "did you mean attention"}.items():
        with pytest.raises(ConfigError, match=message):
            attached(targets=targets)
    with pytest.raises(ConfigError, match=r"lora\.saved: got 'heed'.*did you mean head"):
        attached(saved=("heed",))
    with pytest.raises(ConfigError, match="head is among targets and saved"):
        attached(targets=("head",), saved=("head",))
    with pytest.raises(ConfigError, match=r"no magnitudes \(DoRA\) of experts .*gate_up_proj is; choose other targets"):
        attached(MIXTRAL, "dora")
    with pytest.raises(ConfigError, match="need magnitudes, or none"):
        attached({"model_type": "phi3", **SIZES, "pad_token_id": 0}, "dora", targets=("q",))
    with pytest.raises(ConfigError, match="got 'router', which is no module's name"):
        attached(MIXTRAL, targets=("router",))


@pytest.mark.parametrize(
    ("config", "kind"), [(LLAMA, "lora"), (LLAMA, "dora"), (LLAMA, "qlora"), (MIXTRAL, "lora"), (MIXTRAL, "qlora")]
)
def test_only_the_adapter_learns(config, kind):
    module, adapters = attached(config, kind)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    start = module(IDS)
    start.square().mean().backward()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in adapters.parameters())
    assert any(parameter.grad.any() for parameter in adapters.parameters())
    torch.optim.SGD(adapters.parameters(), lr=0.1).step()
    assert relative(logits(module), start) > 1e-4
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_backward_saves_the_input_once_and_low_rank_activations(kind):
    module, _ = attached(kind=kind, targets=("up",))
    up, kept = module.get_submodule("layers.0.mlp.up"), []
    x = torch.randn(50, 32, requires_grad=True)

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        up(x).sum().backward()
    whole = {tensor.data_ptr() for tensor in kept if tensor.shape == (50, 32)}
    assert whole == {x.data_ptr()}
    weights = {p.data_ptr() for p in module.parameters()}
    made = sum(t.numel() for t in kept if t.data_ptr() != x.data_ptr() and t.data_ptr() not in weights)
    assert made <= 50 * 3 + 3 * 32 + 40 * 3, "an activation as wide as the map is kept, or a weight"


def test_saved_modules_are_trained_whole_and_written(tmp_path):
    module, adapters = attached(targets=("q",), saved=("head", "layers.1.attention_norm"))
    assert {"trained.head.weight", "trained.layers.1.attention_norm.weight"} <= {
        name for name, _ in adapters.named_parameters()
    }
    stirred(adapters)
    write(adapters, tmp_path, module.spec, "base")
    changes, saved = changes_by_ours(open_adapter(tmp_path), module.spec)
    assert saved.keys() == {"head.weight", "layers.1.attention_norm.weight"}
    for name, array in saved.items():
        assert np.array_equal(array, adapters.saved(NAME)[name])
    assert changes.keys() == adapters.changes(NAME).keys()


@pytest.mark.parametrize("saved", ["embedding", "head"])
def test_a_tied_model_stays_tied(saved):
    module, adapters = attached(TIED, targets=("q",), saved=(saved,))
    stirred(adapters)
    head = module.get_submodule("head")
    assert head.weight is module.get_parameter("embedding.tokens.weight")
    tensors = merged(module, adapters)
    assert "head.weight" not in tensors
    whole = transformer(TIED)
    whole.load_state_dict(tensors, strict=True)
    assert relative(logits(whole), logits(module)) <= 1e-6


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, TIED])
def test_written_adapters_are_read_back(config, tmp_path):
    module, adapters = attached(config)
    stirred(adapters)
    write(adapters, tmp_path, module.spec, "base")
    found = open_adapter(tmp_path)
    assert found.base == "base"
    changes, _ = changes_by_ours(found, module.spec)
    for path, change in adapters.changes(NAME).items():
        assert np.allclose(
            change.scaling * change.b @ change.a, changes[path].scaling * changes[path].b @ changes[path].a, atol=1e-6
        )


def test_dropout_is_active_in_training_and_follows_the_random_state():
    module, adapters = attached(dropout=0.5)
    stirred(adapters)
    adapters.eval()
    still = logits(module)
    assert torch.equal(logits(module), still)
    adapters.train()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(logits(module))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], still)


def test_bfloat16_products_are_near_those_of_float32():
    for kind in ("lora", "dora", "qlora"):
        for config in (LLAMA, MIXTRAL) if kind != "dora" else (LLAMA,):
            module, adapters = attached(config, kind, targets=(*LINEAR, "head", "embedding"))
            stirred(adapters)
            expected = logits(module)
            with torch.autocast("cpu", torch.bfloat16):
                got = module(IDS)
            got.float().square().mean().backward()
            assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in adapters.parameters())
            if config is LLAMA:  # bfloat16 changes the choice between close scores of experts
                assert relative(got, expected) <= 0.05


# ---------------------------------------------------------------------------------------------------------------------
# NF4


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL])
def test_qlora_takes_4_13_bits_per_element(config):
    config = config | {"hidden_size": 512, "intermediate_size": 1024}
    full, (module, _) = transformer(config), attached(config, "qlora")
    linears = {path for path, part in module.named_modules() if isinstance(part, (Nf4Linear, Nf4StackedLinear))}
    before = sum(full.get_parameter(f"{path}.weight").nbytes for path in linears)
    after = sum(buffer.nbytes for path in linears for buffer in module.get_submodule(path).buffers())
    assert 4.12 <= 32 * after / before <= 4.14
    assert not any(path == "head" or path.endswith("router") for path in linears)
    assert {path.rpartition(".")[0] for path in linears} >= {"layers.0.attention", "layers.1.attention"}


@pytest.mark.parametrize("shape", [(64, 96), (5, 13), (1, 1), (70, 1)])
def test_nf4_rounds_to_the_nearest_level(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    frozen = Nf4(weight)
    blocks = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    nearest = LEVELS[(blocks[..., None] / scales[..., None] - LEVELS).abs().argmin(dim=-1)] * scales
    # Scales are quantized to 8 bits: their distance from the mean has an error of about 1 %.
    slack = 0.02 * (scales - scales.mean()).abs().max() + 1e-6
    assert ((frozen.weight() - nearest.flatten()[: weight.numel()].view(shape)).abs() <= slack).all()


def test_nf4_backward_is_that_of_the_dequantized_weight():
    frozen, bias = Nf4(torch.randn(40, 32)), torch.randn(40, requires_grad=True)
    x = torch.randn(2, 5, 32, requires_grad=True)
    upstream = torch.randn(2, 5, 40)
    got = torch.autograd.grad(frozen(x, bias), (x, bias), upstream)
    expected = torch.autograd.grad(torch.nn.functional.linear(x, frozen.weight(), bias), (x, bias), upstream)
    assert all(relative(a, b) <= 1e-6 for a, b in zip(got, expected, strict=True))


def test_zeros_and_outliers_survive():
    weight = torch.zeros(4, 64)
    weight[1, 3], weight[2] = -1e4, 1e-30
    found = Nf4(weight).weight()
    assert found.isfinite().all()
    assert not found[0].any()
    assert abs(found[1, 3] + 1e4) <= 1
