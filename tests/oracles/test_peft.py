"""LoRA adapters of PEFT: logits are PEFT's, merged or attached; PEFT reads ours."""

from __future__ import annotations

import peft
import pytest
import safetensors.torch
import torch
import transformers
from test_transformers_gguf import weights_of, write_gguf
from tiny import CASES as MODELS
from tiny import error, make, output, saved, token_ids

from ordito import families
from ordito.checkpoint.adapted import adapted
from ordito.checkpoint.adapter import WEIGHTS, open_adapter
from ordito.checkpoint.adapter_names import changes_by_ours, changes_by_theirs, saved_by_theirs
from ordito.checkpoint.adapter_write import write_adapter
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.nn.adapter import Adapters
from ordito.nn.runtime import load_transformer

TOLERANCE = 1e-5
IDS = token_ids(20)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
BIASED = "llama, one kv head, all biases, head_dim, llama3"  # its head is tied, too
WITHOUT_HEAD = "llama without a head"

CASES = {
    "attention": ("llama", {"target_modules": ATTENTION}),
    "everything linear": ("llama", {"target_modules": "all-linear"}),
    "a pattern": ("llama", {"target_modules": r"model\.layers\.[02]\..*(q|down)_proj"}),
    "some layers": ("llama", {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [1]}),
    "ranks and alphas of their own": (
        "llama",
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"q_proj": 7, r"layers\.[01]\.self_attn\.v_proj": 2, "^model.layers.2.self_attn.k_proj": 3},
            "alpha_pattern": {"k_proj|o_proj": 5, r".*\.2\.self_attn\.q_proj": 40},
        },
    ),
    "rsLoRA": ("llama", {"target_modules": ATTENTION, "use_rslora": True, "rank_pattern": {"q_proj": 3}}),
    "DoRA": ("llama", {"target_modules": ATTENTION + MLP, "use_dora": True}),
    "DoRA of maps with biases": (BIASED, {"target_modules": ATTENTION + MLP, "use_dora": True}),
    "all biases": (BIASED, {"target_modules": ["q_proj", "up_proj"], "bias": "all"}),
    "biases of what is adapted": (BIASED, {"target_modules": ["q_proj", "up_proj"], "bias": "lora_only"}),
    "head and embedding saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "tied head saved": (BIASED, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied embedding saved": (BIASED, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "norm saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["post_attention_layernorm"]}),
    "head and embedding adapted": ("llama", {"target_modules": ["lm_head", "embed_tokens", "v_proj"]}),
    "tied head adapted": (BIASED, {"target_modules": ["lm_head"]}),
    "tied embedding adapted": (BIASED, {"target_modules": ["embed_tokens"]}),
    "tied head and embedding adapted alike": (BIASED, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied head and embedding saved": (
        BIASED,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "DoRA of the embedding": ("llama", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "without a head": (WITHOUT_HEAD, {"target_modules": ["q_proj"], "task_type": "FEATURE_EXTRACTION"}),
    "scaled embedding, capped head": ("gemma2", {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "fused maps": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    "DoRA of fused maps": ("phi3", {"target_modules": ["qkv_proj", "o_proj"], "use_dora": True}),
    "transposed maps": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed maps and one that is not": ("gpt2", {"target_modules": ["c_proj", "lm_head"]}),
    "DoRA of transposed maps": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "latent attention": ("deepseek3", {"target_modules": ["q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]}),
    "an encoder": ("bert", {"target_modules": ["query", "dense"], "task_type": "FEATURE_EXTRACTION"}),
}
"""What is adapted -> (tiny model, LoraConfig)."""


def trained(model, **config):
    """The model under an adapter of which no tensor is neutral."""
    made = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | config)).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(made.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "lora_" in name and "magnitude" not in name:
            parameter.data.copy_(0.15 * noise)
        elif parameter.requires_grad:
            parameter.data.add_(0.2 * noise)
    return made


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(folder, what PEFT gives, class of the base, kind of task)."""
    folder = tmp_path_factory.mktemp("adapter")
    base, config = CASES[request.param]
    model = trained(saved(base, folder / "base"), **config)
    model.save_pretrained(folder / "adapter")
    kind = getattr(transformers, MODELS[base][0])
    return folder, output(model, IDS), kind, config.get("task_type", "CAUSAL_LM")


def run(module):
    with torch.no_grad():
        return module(IDS) if module.spec.head else module.hidden(IDS)


def merged(folder, base="base"):
    return load_transformer(adapted(open_checkpoint(folder / base), open_adapter(folder / "adapter")))


def test_merged_equals_peft(case):
    folder, expected, *_ = case
    assert error(run(merged(folder)), expected) <= TOLERANCE


def test_attached_equals_peft_and_inactive_equals_the_base(case):
    folder, expected, *_ = case
    module = load_transformer(open_checkpoint(folder / "base"))
    base, names = run(module), set(module.state_dict())
    adapters = Adapters(module)
    adapters.add("it", *changes_by_ours(open_adapter(folder / "adapter"), module.spec))
    assert torch.equal(run(module), base)
    with adapters.using("it"):
        assert error(run(module), expected) <= TOLERANCE
        assert error(run(module), base) > 100 * TOLERANCE
    assert torch.equal(run(module), base)
    assert set(module.state_dict()) == names


def test_peft_reads_what_is_written(case):
    folder, expected, kind, task = case
    spec = open_checkpoint(folder / "base").spec
    changes, replaced = changes_by_ours(open_adapter(folder / "adapter"), spec)
    write_adapter(
        folder / "again",
        changes_by_theirs(changes, spec),
        base=str(folder / "base"),
        saved=saved_by_theirs(replaced, spec),
        task=task,
    )
    base = kind.from_pretrained(folder / "base", attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(base, folder / "again").eval()
    assert error(output(model, IDS), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", BIASED, "phi3", "gpt2"])
@pytest.mark.parametrize("dora", [False, True])
def test_merged_into_a_gguf_file_equals_peft(name, dora, tmp_path):
    changes = {"llama": {"head_dim": 64}, BIASED: {"hidden_act": "silu", "rope_parameters": None, "head_dim": 64}}
    model = make(name, **changes.get(name, {}))
    spec = families.spec_from_config(model.config.to_dict())
    write_gguf(tmp_path / "base.gguf", spec, weights_of(model, spec))
    model = trained(model, target_modules="all-linear", use_dora=dora)
    model.save_pretrained(tmp_path / "adapter")
    assert error(run(merged(tmp_path, "base.gguf")), output(model, IDS)) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_read(dtype, tmp_path):
    model = trained(saved("llama", tmp_path / "base"), target_modules=ATTENTION)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype).float()
    expected = output(model, IDS)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / WEIGHTS
    whole = {name: torch.tensor(tensor.to_float32()) for name, tensor in read_safetensors(path).tensors.items()}
    safetensors.torch.save_file({name: tensor.to(dtype) for name, tensor in whole.items()}, path)
    assert error(run(merged(tmp_path)), expected) <= TOLERANCE


def test_old_spellings_are_read(tmp_path):
    config = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "use_dora": True}
    model = trained(saved("llama", tmp_path / "base"), **config)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / WEIGHTS
    old = {}
    for name, tensor in read_safetensors(path).tensors.items():
        spelled = name.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")
        spelled = spelled.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.weight", "lora_B.default.weight")
        old[spelled.replace("magnitude_vector", "magnitude_vector.default.weight")] = tensor.to_float32().copy()
    assert len(old) == 10
    assert all("default" in name for name in old)
    write_safetensors(path, old)
    assert error(run(merged(tmp_path)), output(model, IDS)) <= TOLERANCE


def test_several_adapters_can_be_added(tmp_path):
    expected = {}
    for name, config in {"one": {"target_modules": ATTENTION}, "two": {"target_modules": MLP, "use_dora": True}}.items():
        model = trained(saved("llama", tmp_path / "base"), **config)
        model.save_pretrained(tmp_path / name)
        expected[name] = output(model, IDS)
    module = load_transformer(open_checkpoint(tmp_path / "base"))
    expected[None] = run(module)
    adapters = Adapters(module)
    for name in ("one", "two"):
        adapters.add(name, *changes_by_ours(open_adapter(tmp_path / name), module.spec))
    for name in ("one", None, "two", "one"):
        adapters.use(name)
        assert error(run(module), expected[name]) <= TOLERANCE


def test_a_head_tied_to_a_saved_embedding_is_no_longer(tmp_path):
    model = trained(saved(BIASED, tmp_path / "base"), **CASES["tied embedding saved"][1])
    model.save_pretrained(tmp_path / "adapter")
    checkpoint = adapted(open_checkpoint(tmp_path / "base"), open_adapter(tmp_path / "adapter"))
    assert checkpoint.spec.head.tied is False
