"""Tiny models of the family `qwen`."""

from sizes import BASE

MOE = {**BASE, "num_hidden_layers": 4, "intermediate_size": 88, "moe_intermediate_size": 40, "num_experts": 5}

CASES = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", BASE),
    "qwen2, windows, tied, one kv head": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            **BASE,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 1,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen2, a window that is not used": ("Qwen2Model", "Qwen2Config", {**BASE, "sliding_window": 7, "max_window_layers": 0}),
    "qwen2, yarn": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            **BASE,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**MOE, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 72},
    ),
    "qwen2_moe, windows, dense layers, renormalised, no bias": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **MOE,
            "num_experts_per_tok": 3,
            "shared_expert_intermediate_size": 36,
            "norm_topk_prob": True,
            "qkv_bias": False,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 3,
            "decoder_sparse_step": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**BASE, "head_dim": 24}),
    "qwen3, biases, windows, tied, one kv head": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {
            **BASE,
            "head_dim": 8,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3 without a head": ("Qwen3Model", "Qwen3Config", {**BASE, "head_dim": 24}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**MOE, "head_dim": 24, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe, windows, dense layers, biases": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            **MOE,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "mlp_only_layers": [1],
            "use_sliding_window": True,
            "sliding_window": 5,
            "tie_word_embeddings": True,
        },
    ),
}
