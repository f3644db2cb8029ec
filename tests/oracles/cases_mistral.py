"""Tiny models of the family `mistral`."""

from sizes import BASE

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.4,
    "max_position_embeddings": 64,
}

CASES = {
    "mistral, windows": ("MistralForCausalLM", "MistralConfig", {**BASE, "sliding_window": 7}),
    "mistral, one kv head, head_dim, tied": (
        "MistralForCausalLM",
        "MistralConfig",
        {
            **BASE,
            "sliding_window": None,
            "head_dim": 24,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "mistral without a head": ("MistralModel", "MistralConfig", {**BASE, "sliding_window": 5}),
    "ministral": (
        "MinistralForCausalLM",
        "MinistralConfig",
        {
            **BASE,
            "head_dim": 16,
            "sliding_window": 6,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "ministral, head_dim, tied": (
        "MinistralForCausalLM",
        "MinistralConfig",
        {
            **BASE,
            "sliding_window": 9,
            "head_dim": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "ministral3": (
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {**BASE, "head_dim": 32, "rope_parameters": YARN},
    ),
    "ministral3, tied, one kv head, windows": (
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {
            **BASE,
            "head_dim": 24,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "sliding_window": 11,
            "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3},
        },
    ),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**BASE, "intermediate_size": 88, "num_local_experts": 5, "num_experts_per_tok": 2},
    ),
    "mixtral, windows, head_dim, three of four": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {
            **BASE,
            "intermediate_size": 40,
            "num_local_experts": 4,
            "num_experts_per_tok": 3,
            "sliding_window": 7,
            "head_dim": 24,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
}
