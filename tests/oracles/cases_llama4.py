"""Tiny models of the family `llama4`."""

from sizes import BASE

L3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
}
L4 = {
    **BASE,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "intermediate_size": 44,
    "intermediate_size_mlp": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "attention_chunk_size": 8,
    "floor_scale": 4,
    "attn_scale": 0.5,
}

CASES = {
    "llama4": ("Llama4ForCausalLM", "Llama4TextConfig", {**L4, "interleave_moe_layer_step": 2, "rope_parameters": L3}),
    "llama4, two experts, no norms, no temperature, biases, tied": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **L4,
            "head_dim": 24,
            "num_key_value_heads": 1,
            "num_experts_per_tok": 2,
            "use_qk_norm": False,
            "attn_temperature_tuning": False,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "moe_layers": [0, 3],
            "no_rope_layers": [1, 0, 0, 1],
            "layer_types": ["chunked_attention", "full_attention", "chunked_attention", "full_attention"],
        },
    ),
    "llama4, dense, positions everywhere, no chunks": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **L4,
            "num_hidden_layers": 3,
            "moe_layers": [],
            "no_rope_layers": [1, 1, 1, 0],
            "layer_types": ["full_attention"] * 3,
        },
    ),
    "llama4, experts everywhere, as GGUF knows it": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**L4, "attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1},
    ),
}
