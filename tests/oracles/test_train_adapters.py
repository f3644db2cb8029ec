"""Adapters in training against PEFT from the same values: forward, gradients, AdamW steps, merging and files."""

from __future__ import annotations

import json

import bitsandbytes.functional as bnb
import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from tiny import CASES as MODELS
from tiny import error, output, saved, token_ids

import ordito
from ordito.checkpoint.adapted import adapted
from ordito.checkpoint.adapter import CONFIG, WEIGHTS, LowRank, open_adapter
from ordito.checkpoint.adapter_names import changes_by_ours, changes_by_theirs, saved_by_theirs
from ordito.checkpoint.adapter_write import write_adapter
from ordito.checkpoint.checkpoint import open_checkpoint, with_own_head
from ordito.errors import OrditoWarning
from ordito.nn import Transformer
from ordito.nn.adapter import Adapters
from ordito.nn.nf4 import BLOCK, LEVELS, SCALES, Nf4, quantize_blocks
from ordito.nn.runtime import load_transformer
from ordito.train.adapters import NAME, attach, load_nf4, merged, write
from ordito.train.settings import LowRankSettings

TOLERANCE = 1e-5
IDS = token_ids(20, batch=2)
BIASED = "llama, one kv head, all biases, head_dim, llama3"  # its head is tied, too
LINEAR = ("linear",)
ATTENTION = ("q", "k", "v", "o")

CASES = {
    "lora": ("llama", "lora", {"targets": LINEAR}),
    "rslora": ("llama", "lora", {"targets": LINEAR, "root": True}),
    "dora": ("llama", "dora", {"targets": LINEAR}),
    "dora of maps with biases": (BIASED, "dora", {"targets": LINEAR}),
    "fused maps": ("phi3", "lora", {"targets": LINEAR}),
    "dora of fused maps": ("phi3", "dora", {"targets": LINEAR}),
    "a part of a fused map": ("phi3", "lora", {"targets": ("q", "up")}),
    "transposed maps": ("gpt2", "lora", {"targets": LINEAR}),
    "dora of transposed maps": ("gpt2", "dora", {"targets": LINEAR}),
    "embedding and head": ("llama", "lora", {"targets": ("embedding", "head", "v")}),
    "dora of embedding and head": ("llama", "dora", {"targets": ("embedding", "head", "v")}),
    "tied head": (BIASED, "lora", {"targets": ("head", "q")}),
    "tied embedding": (BIASED, "lora", {"targets": ("embedding", "q")}),
    "head and embedding saved": ("llama", "lora", {"targets": ATTENTION, "saved": ("embedding", "head")}),
    "latent attention": ("deepseek3", "lora", {"targets": ("attention",)}),
    "experts of Mixtral": ("mixtral", "lora", {"targets": LINEAR}),
    "experts of Qwen": ("qwen2_moe", "lora", {"targets": LINEAR}),
    "half of the experts' maps": ("qwen3_moe", "lora", {"targets": ("experts.gate", "experts.up")}),
    "experts of DeepSeek": ("deepseek3", "lora", {"targets": LINEAR}),
    "transposed, interleaved experts": ("gpt_oss", "lora", {"targets": LINEAR}),
}
"""What is adapted -> (tiny model, kind, settings)."""


def settings(**changes):
    return LowRankSettings(**{"rank": 3, "alpha": 5.0} | changes)


def stirred(adapters):
    """No parameter of the adapter is neutral."""
    generator = torch.Generator().manual_seed(3)
    for _, parameter in sorted(adapters.named_parameters()):
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapters


def by_theirs(folder, spec, changes, kept):
    """Tensors of an adapter under PEFT's names of parameters."""
    write_adapter(folder, changes_by_theirs(changes, spec), base="", saved=saved_by_theirs(kept, spec))
    return load_file(folder / WEIGHTS)


def values(adapters, folder, spec):
    return by_theirs(folder, spec, adapters.changes(NAME), adapters.saved(NAME))


def gradients(adapters, folder, spec):
    """As `values`: gradients go the way of what they are gradients of."""
    found = {name.removeprefix(f"{NAME}."): p.grad.numpy() for name, p in adapters.named_parameters()}
    changes = {
        path: LowRank(found[f"{path}.a"], found[f"{path}.b"], 1.0, found.get(f"{path}.magnitude"), change.embedding)
        for path, change in adapters.changes(NAME).items()
    }
    return by_theirs(folder, spec, changes, {path: found[path] for path in adapters.saved(NAME)})


def trainable(model):
    """PEFT's parameters by their names in files."""
    return {
        name.replace("modules_to_save.default.", "").replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }  # fmt: skip


def loss_of(logits):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def logits(module):
    with torch.no_grad():
        return module(IDS)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(folder, name of the base, kind, settings): a base, and an adapter that was written here."""
    folder = tmp_path_factory.mktemp("adapter")
    base, kind, changes = CASES[request.param]
    saved(base, folder / "base")
    module, adapters = ours(folder, kind, changes)
    write(adapters, folder / "adapter", module.spec, str(folder / "base"))
    return folder, base, kind, changes


def ours(folder, kind, changes):
    module = load_transformer(open_checkpoint(folder / "base"))
    return module, stirred(attach(module, settings(**changes), kind, seed=0))


def theirs(folder, base, adapter="adapter"):
    model = getattr(transformers, MODELS[base][0]).from_pretrained(folder / "base", attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, folder / adapter, is_trainable=True).eval()


def test_forward_gradients_and_steps_are_pefts(case, tmp_path):
    folder, base, kind, changes = case
    (module, adapters), model = ours(folder, kind, changes), theirs(folder, base)
    assert error(logits(module), output(model, IDS)) <= TOLERANCE
    parameters, start = trainable(model), values(adapters, tmp_path / "v", module.spec)
    assert parameters.keys() == start.keys()
    # Where maps that are one in transformers have an A each, B is made of blocks, and what is outside them stays zero.
    inside = {name: start[name] != 0 for name in parameters}
    optimizers = [
        torch.optim.AdamW(found, lr=2e-3, eps=1e-3, weight_decay=0.01)
        for found in (list(adapters.parameters()), list(parameters.values()))
    ]
    for step in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(module(IDS)).backward()
        model(input_ids=IDS, labels=IDS).loss.backward()
        for name, parameter in parameters.items():
            parameter.grad.mul_(inside[name])
        if step == 0:
            got = gradients(adapters, tmp_path / "g", module.spec)
            assert max(error(got[name], parameter.grad) for name, parameter in parameters.items()) <= TOLERANCE
        for optimizer in optimizers:
            optimizer.step()
    got = values(adapters, tmp_path / "w", module.spec)
    assert max(error(got[name], parameter.data) for name, parameter in parameters.items()) <= TOLERANCE
    assert max(error(got[name], start[name]) for name in got) > 100 * TOLERANCE
    assert all(parameter.grad is None for parameter in module.parameters() if not parameter.requires_grad)


def test_merged_equals_peft_and_the_base_is_restored(case):
    folder, base, kind, changes = case
    module, adapters = ours(folder, kind, changes)
    model, beside = theirs(folder, base), logits(module)
    # PEFT merges a tied head or embedding into both; beside the weights it changes one of them.
    expected = output(model if module.spec.head.tied else model.merge_and_unload().eval(), IDS)
    tensors = merged(module, adapters)
    spec = with_own_head(module.spec) if tensors.keys() - module.spec.tensors().keys() else module.spec
    whole = Transformer(spec).eval()
    whole.load_state_dict(tensors, strict=True)
    assert error(logits(whole), expected) <= TOLERANCE
    with adapters.merging():
        assert all(not getattr(part, "beside", ()) for part in module.modules())
        assert error(logits(module), expected) <= TOLERANCE
    assert torch.equal(logits(module), beside)


def test_adapters_of_peft_load_merged_and_attached(case, tmp_path):
    folder, base, *_ = case
    model = theirs(folder, base)
    expected = output(model, IDS)
    model.save_pretrained(tmp_path)
    adapter, checkpoint = open_adapter(tmp_path), open_checkpoint(folder / "base")
    assert error(logits(load_transformer(adapted(checkpoint, adapter))), expected) <= TOLERANCE
    module = load_transformer(checkpoint)
    adapters = Adapters(module)
    adapters.add("it", *changes_by_ours(adapter, module.spec))
    adapters.use("it")
    assert error(logits(module), expected) <= TOLERANCE


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("base", ["llama", BIASED])
def test_dropout_is_pefts(kind, base, tmp_path):
    saved(base, tmp_path / "base")
    module, adapters = ours(tmp_path, kind, {"targets": ("layers.1.attention.q",), "dropout": 0.4})
    write(adapters, tmp_path / "adapter", module.spec, "")
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text()) | {"lora_dropout": 0.4}
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps(config))
    model = theirs(tmp_path, base).train()
    found = []
    for run in (lambda: module(IDS), lambda: model(input_ids=IDS).logits):
        torch.manual_seed(5)
        found.append(run())
        loss_of(found[-1]).backward()
    assert error(found[0], found[1]) <= TOLERANCE
    got, expected = gradients(adapters, tmp_path / "g", module.spec), trainable(model)
    assert max(error(got[name], parameter.grad) for name, parameter in expected.items()) <= TOLERANCE
    adapters.eval()
    assert error(logits(module), output(model.eval(), IDS)) <= TOLERANCE
    assert error(logits(module), found[0]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["embedding", "head"])
def test_a_tied_embedding_that_is_saved_stays_one_with_the_head_and_peft_reads_both(name, tmp_path):
    saved(BIASED, tmp_path / "base")
    module, adapters = ours(tmp_path, "lora", {"targets": ATTENTION, "saved": (name,)})
    assert sum(parameter.shape == (97, 64) for parameter in adapters.parameters()) == 1
    write(adapters, tmp_path / "adapter", module.spec, "")
    assert error(logits(module), output(theirs(tmp_path, BIASED), IDS)) <= TOLERANCE
    tensors = merged(module, adapters)
    whole = Transformer(module.spec).eval()
    whole.load_state_dict(tensors, strict=True)
    assert error(logits(whole), logits(module)) <= TOLERANCE


def test_trained_adapters_load_merged_and_attached_and_can_be_switched(folder, tmp_path):
    expected = {}
    for name, kind in {"one": "lora", "two": "dora"}.items():
        module = load_transformer(open_checkpoint(folder))
        adapters = stirred(attach(module, settings(), kind, seed=1))
        write(adapters, tmp_path / name, module.spec, str(folder))
        with torch.no_grad():
            expected[name] = module(torch.tensor([[5, 6, 7, 8]]))[0]
        for merge in (True, False):
            got = ordito.load(folder, adapter=tmp_path / name, merge=merge).logits([5, 6, 7, 8])
            assert error(torch.tensor(got), expected[name]) <= TOLERANCE
    model = ordito.load(folder, adapter=tmp_path / "one", merge=False)
    model.runtime.adapters.add("two", *changes_by_ours(open_adapter(tmp_path / "two"), model.runtime.spec))
    for name in ("adapter", "two", "adapter"):
        model.runtime.adapters.use(name)
        assert error(torch.tensor(model.logits([5, 6, 7, 8])), expected["one" if name == "adapter" else name]) <= TOLERANCE


# ---------------------------------------------------------------------------------------------------------------------
# NF4


SHAPES = [(64, 96), (33, 17), (5, 13), (1, 1), (3, 100), (576, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_are_those_of_bitsandbytes(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight.view(-1)[:BLOCK] = 0
    codes, state = bnb.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    frozen = Nf4(weight)
    assert torch.equal(frozen.codes, codes.flatten())
    assert torch.equal(LEVELS, state.code)
    _, scales = quantize_blocks(weight.flatten(), LEVELS, BLOCK)
    assert torch.equal(scales, state.absmax)


def test_scales_are_those_of_bitsandbytes():
    assert torch.equal(SCALES, bnb.create_dynamic_map())
    weight = torch.randn(576, 1536, generator=torch.Generator().manual_seed(0))
    codes, state = bnb.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    frozen = Nf4(weight)
    assert torch.equal(frozen.mean, state.offset)
    assert torch.equal(frozen.absmax, state.state2.absmax)
    # bitsandbytes' CPU code finds the nearest level by a table that is not exact: in one of some hundred it takes the next.
    assert (frozen.scale_codes != state.absmax).float().mean() <= 0.005
    assert (frozen.scale_codes.int() - state.absmax.int()).abs().max() <= 1
    shares = (state.absmax.new_tensor(0).float() + quantize_blocks(weight.flatten(), LEVELS, BLOCK)[1] - frozen.mean) / (
        frozen.absmax.repeat_interleave(256)[: len(frozen.scale_codes)]
    )
    nearest = (shares[:, None] - SCALES).abs().amin(dim=1)
    assert ((SCALES[frozen.scale_codes.int()] - shares).abs() - nearest).max() <= 1e-7
    # With its codes in the place of ours, the weights are the same to the bit.
    frozen.scale_codes = state.absmax.flatten()
    assert torch.equal(frozen.weight(), bnb.dequantize_4bit(codes, state))


@pytest.mark.parametrize("base", ["llama", BIASED, "qwen2_moe"])
def test_loading_into_nf4_equals_quantizing_after_loading(base, tmp_path):
    saved(base, tmp_path)
    chosen = settings(saved=("layers.1.attention.o",))
    found = []
    for module in (load_transformer(open_checkpoint(tmp_path)), load_nf4(open_checkpoint(tmp_path), chosen)):
        attach(module, chosen, "qlora", seed=0)
        assert not any(parameter.is_meta for parameter in module.parameters())
        found.append((logits(module), dict(module.named_buffers())))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert not any(name.startswith("layers.1.attention.o.") for name in found[0][1])
    assert any(name.startswith("layers.1.attention.q.") for name in found[0][1])


@pytest.mark.parametrize("base", ["llama", BIASED, "qwen2_moe"])
def test_adapters_of_nf4_equal_peft_on_the_dequantized_base(base, tmp_path):
    """Forward, gradients and merge of a base in NF4 are those of the same weights in fp32."""
    saved(base, tmp_path / "base")
    module, adapters = ours(tmp_path, "qlora", {"targets": LINEAR})
    write(adapters, tmp_path / "adapter", module.spec, "")
    with pytest.warns(OrditoWarning, match=r"trained on NF4 weights .* changes them by \d+\.\d\d% of their norm"):
        tensors = merged(module, adapters)
    with adapters.using(None):
        plain = {
            path: module.get_submodule(path.rpartition(".")[0]).weight.detach() for path in tensors if path.endswith("weight")
        }
    dequantized = load_transformer(open_checkpoint(tmp_path / "base"))
    dequantized.load_state_dict(plain, strict=False)
    again = Adapters(dequantized)
    again.add("it", adapters.changes(NAME))
    again.use("it")
    found = []
    for one, held in ((module, adapters), (dequantized, again)):
        loss_of(one(IDS)).backward()
        found.append({name.partition(".")[2]: parameter.grad for name, parameter in held.named_parameters()})
    assert error(logits(module), logits(dequantized)) <= TOLERANCE
    assert max(error(found[0][name], grad) for name, grad in found[1].items()) <= TOLERANCE
    whole = Transformer(module.spec).eval()
    whole.load_state_dict(tensors, strict=True)
    assert error(logits(whole), logits(module)) <= 2 * TOLERANCE  # of two roundings
    assert error(logits(module), output(theirs(tmp_path, base), IDS)) > 100 * TOLERANCE  # NF4 is another base
