"""LoRA adapters as PEFT writes them: merged into their base or beside it, the logits are PEFT's; and back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ordito.checkpoint.adapted import adapted, changes_by_ours
from ordito.checkpoint.adapter import open_adapter
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.nn.adapter import Adapters
from ordito.nn.runtime import load_transformer

peft = pytest.importorskip("peft")
sys.path.append(str(Path(__file__).parents[1] / "oracles"))
from tiny import error, output, saved, token_ids  # noqa: E402

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
    "DoRA of the embedding": ("llama", {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}),
    "without a head": (WITHOUT_HEAD, {"target_modules": ["q_proj"], "task_type": "FEATURE_EXTRACTION"}),
    "scaled embedding, capped head": ("gemma2", {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "fused maps": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    "DoRA of fused maps": ("phi3", {"target_modules": ["qkv_proj", "o_proj"], "use_dora": True}),
    "transposed maps": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "transposed maps and one that is not": ("gpt2", {"target_modules": ["c_proj", "lm_head"]}),
    "DoRA of transposed maps": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
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
    """(folder, what PEFT gives)."""
    folder = tmp_path_factory.mktemp("adapter")
    base, config = CASES[request.param]
    model = trained(saved(base, folder / "base"), **config)
    model.save_pretrained(folder / "adapter")
    return folder, output(model, IDS)


def run(module):
    with torch.no_grad():
        return module(IDS) if module.spec.head else module.hidden(IDS)


def test_merged_is_peft(case):
    folder, expected = case
    checkpoint = adapted(open_checkpoint(folder / "base"), open_adapter(folder / "adapter"))
    assert error(run(load_transformer(checkpoint)), expected) <= TOLERANCE


def test_beside_is_peft_and_off_is_the_base(case):
    folder, expected = case
    module = load_transformer(open_checkpoint(folder / "base"))
    base = run(module)
    names = set(module.state_dict())
    adapters = Adapters(module)
    adapters.add("it", *changes_by_ours(open_adapter(folder / "adapter"), module.spec))
    assert torch.equal(run(module), base)
    with adapters.using("it"):
        assert error(run(module), expected) <= TOLERANCE
        assert error(run(module), base) > 100 * TOLERANCE
    assert torch.equal(run(module), base)
    assert set(module.state_dict()) == names
