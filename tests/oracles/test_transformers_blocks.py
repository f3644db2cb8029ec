"""Blocks that no wired family uses yet, held against the modules of the models that they were made for."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import error
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from ordito import spec
from ordito.nn.attention import Attention
from ordito.nn.feedforward import MixtureOfExperts
from ordito.nn.step import Step
from ordito.nn.transformer import Transformer

D, T = 48, 40


def randomised(module):
    generator = torch.Generator().manual_seed(3)
    for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        if tensor.is_floating_point() and "inv_freq" not in name:
            scale = 0.5 if tensor.ndim == 1 else 1.5 * tensor.shape[-1] ** -0.5
            offset = 1.0 if tensor.ndim == 1 and "norm" in name else 0.0
            tensor.data.copy_(offset + scale * torch.randn(tensor.shape, generator=generator))
    return module.eval()


def inputs(batch=2):
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(5))


def step(length=T):
    positions = torch.arange(length)[None]
    return Step(positions, positions, length, torch.float32)


def expert(d_ff=24):
    return spec.FeedForward(d_model=D, d_ff=d_ff, activation="silu", gated=True)


def load_fused_experts(state, gate_up, down):
    """transformers fuses gate and up of all experts into one tensor (E, 2F, D)."""
    state["experts.gate.weight"], state["experts.up.weight"] = gate_up.chunk(2, dim=1)
    state["experts.down.weight"] = down


@torch.no_grad()
def test_mixtral_mixture():
    config = transformers.MixtralConfig(hidden_size=D, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2)
    theirs = randomised(MixtralSparseMoeBlock(config))
    ours = MixtureOfExperts(
        spec.MixtureOfExperts(d_model=D, router=spec.Router(n_experts=6, top_k=2, renormalise=True), expert=expert())
    )
    state = {"router.weight": theirs.gate.weight}
    load_fused_experts(state, theirs.experts.gate_up_proj, theirs.experts.down_proj)
    ours.load_state_dict(state)
    expected = theirs(inputs())
    assert error(ours(inputs()), expected[0] if isinstance(expected, tuple) else expected) <= 1e-5


@torch.no_grad()
def test_qwen2_mixture_with_a_gated_shared_expert():
    config = transformers.Qwen2MoeConfig(
        hidden_size=D,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        num_experts=6,
        num_experts_per_tok=3,
        norm_topk_prob=False,
    )
    theirs = randomised(Qwen2MoeSparseMoeBlock(config))
    router = spec.Router(n_experts=6, top_k=3)
    ours = MixtureOfExperts(
        spec.MixtureOfExperts(d_model=D, router=router, expert=expert(), shared=expert(40), shared_gate=True)
    )
    state = {"router.weight": theirs.gate.weight, "shared_gate.weight": theirs.shared_expert_gate.weight}
    load_fused_experts(state, theirs.experts.gate_up_proj, theirs.experts.down_proj)
    for name in ("gate", "up", "down"):
        state[f"shared.{name}.weight"] = getattr(theirs.shared_expert, f"{name}_proj").weight
    ours.load_state_dict(state)
    expected = theirs(inputs())
    assert error(ours(inputs()), expected[0] if isinstance(expected, tuple) else expected) <= 1e-5


def deepseek(q_rank):
    config = transformers.DeepseekV3Config(
        vocab_size=97,
        hidden_size=D,
        intermediate_size=90,
        moe_intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=8,
        routed_scaling_factor=2.5,
        kv_lora_rank=20,
        q_lora_rank=q_rank,
        qk_rope_head_dim=8,
        qk_nope_head_dim=12,
        v_head_dim=16,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        max_position_embeddings=64,
        rope_interleave=True,
        rms_norm_eps=1e-6,
    )
    config._attn_implementation = "eager"
    return randomised(DeepseekV3ForCausalLM(config))


def deepseek_spec(q_rank):
    def norm(name):
        return spec.Norm(name=name, kind="rms", d_model=D, eps=1e-6)

    rope = spec.Rope(dim=8, theta=10000.0, layout="interleaved")
    attention = spec.LatentAttention(
        d_model=D, n_heads=4, q_rank=q_rank, kv_rank=20, nope_dim=12, rope=rope, v_dim=16, scale=20**-0.5
    )
    router = spec.Router(
        n_experts=8,
        top_k=3,
        score="sigmoid",
        renormalise=True,
        scale=2.5,
        choice_bias=True,
        n_groups=4,
        top_groups=2,
        group_score="top2",
    )
    dense = spec.FeedForward(d_model=D, d_ff=90, activation="silu", gated=True)
    mixture = spec.MixtureOfExperts(d_model=D, router=router, expert=expert(), shared=expert())

    def layer(mlp):
        return spec.Chain(
            spec.Residual(spec.Chain(norm("attention_norm"), attention)), spec.Residual(spec.Chain(norm("mlp_norm"), mlp))
        )

    return spec.Spec(
        architecture="deepseek_v3",
        context=64,
        body=spec.Chain(
            spec.Embedding(vocab_size=97, d_model=D),
            spec.Stack(layers=(layer(dense), layer(mixture), layer(mixture))),
            norm("norm"),
        ),
        head=spec.Head(d_model=D, vocab_size=97, tied=False),
    )


@pytest.mark.parametrize("q_rank", [None, 24])
@torch.no_grad()
def test_deepseek_latent_attention_and_grouped_routing(q_rank):
    theirs = deepseek(q_rank)
    ours = Transformer(deepseek_spec(q_rank))
    state = {}
    renames = (
        ("model.embed_tokens", "embedding.tokens"),
        ("lm_head", "head"),
        ("model.", ""),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "mlp_norm"),
        ("self_attn", "attention"),
        ("q_a_proj", "q_down"),
        ("q_a_layernorm", "q_norm"),
        ("q_b_proj", "q_up"),
        ("q_proj", "q"),
        ("kv_a_proj_with_mqa", "kv_down"),
        ("kv_a_layernorm", "kv_norm"),
        ("kv_b_proj", "kv_up"),
        ("o_proj", "o"),
        ("mlp.gate.weight", "mlp.router.weight"),
        ("mlp.gate.e_score_correction_bias", "mlp.router.choice_bias"),
        ("shared_experts", "shared"),
        ("gate_proj", "gate"),
        ("up_proj.", "up."),
        ("down_proj.", "down."),
    )
    for name, tensor in theirs.state_dict().items():
        if name.endswith("gate_up_proj"):
            prefix = name.replace("model.", "").removesuffix("experts.gate_up_proj")
            state[f"{prefix}experts.gate.weight"], state[f"{prefix}experts.up.weight"] = tensor.chunk(2, dim=1)
        elif name.endswith("experts.down_proj"):
            state[name.replace("model.", "").replace("down_proj", "down.weight")] = tensor
        else:
            for old, new in renames:
                name = name.replace(old, new)
            state[name] = tensor
    ours.load_state_dict(state)
    ids = torch.randint(0, 97, (2, T), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids).logits
    assert error(ours(ids), expected) <= 1e-5
    cache = ours.new_cache(2, T)
    steps = [ours(ids[:, : T - 4], cache=cache)] + [ours(ids[:, t : t + 1], cache=cache) for t in range(T - 4, T)]
    assert error(torch.cat(steps, dim=1), expected) <= 1e-5


@pytest.mark.parametrize("window", [None, 6])
@torch.no_grad()
def test_gpt_oss_attention_with_sinks(window):
    config = transformers.GptOssConfig(
        hidden_size=D,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        num_hidden_layers=2,
        sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 150.0},
        layer_types=["sliding_attention", "full_attention"],
    )
    config._attn_implementation = "eager"
    theirs = randomised(GptOssAttention(config, layer_idx=0 if window else 1))
    ours = Attention(
        spec.Attention(
            d_model=D,
            n_heads=6,
            n_kv_heads=2,
            head_dim=16,
            scale=16**-0.5,
            bias=("q", "k", "v", "o"),
            window=window,
            sinks=True,
            rope=spec.Rope(dim=16, theta=150.0),
        )
    )
    ours.load_state_dict({name.replace("_proj", ""): tensor for name, tensor in theirs.state_dict().items()})
    x = inputs(1)
    seen = step().mask(True, window)
    bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    angles = GptOssRotaryEmbedding(config)(x, torch.arange(T)[None])
    expected = theirs(x, attention_mask=bias, position_embeddings=angles)[0]
    assert error(ours(x, step()), expected) <= 1e-5
