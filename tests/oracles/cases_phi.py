"""Tiny models of the families `phi` and `phi3`."""

from sizes import BASE

PHI = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [2.0 + 0.7 * i for i in range(8)]
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG}
MAGNITUDES = {"short_mscale": 1.3, "long_mscale": 1.2, "original_max_position_embeddings": 48}
MOE = {**BASE, "intermediate_size": 40, "num_local_experts": 5, "num_experts_per_tok": 2}

CASES = {
    "phi": ("PhiForCausalLM", "PhiConfig", PHI),
    "phi, one kv head, norms on heads, another part turned": (
        "PhiForCausalLM",
        "PhiConfig",
        {
            **PHI,
            "num_key_value_heads": 1,
            "qk_layernorm": True,
            "layer_norm_eps": 1e-3,
            "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.4},
        },
    ),
    "phi without a head, all turned": (
        "PhiModel",
        "PhiConfig",
        {**PHI, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**BASE, "sliding_window": 7}),
    "phi3, longrope": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            **BASE,
            "num_key_value_heads": 1,
            "original_max_position_embeddings": 16,
            "tie_word_embeddings": True,
            "rope_parameters": LONGROPE,
        },
    ),
    "phi3, longrope on a part of each head": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            **BASE,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONGROPE, "partial_rotary_factor": 0.5},
        },
    ),
    "phimoe": (
        "PhimoeForCausalLM",
        "PhimoeConfig",
        {**MOE, "attention_bias": True, "lm_head_bias": True, "rope_parameters": {**LONGROPE, **MAGNITUDES}},
    ),
    "phimoe, one magnitude": (
        "PhimoeForCausalLM",
        "PhimoeConfig",
        {**MOE, "tie_word_embeddings": True, "rope_parameters": {**LONGROPE, **MAGNITUDES, "long_mscale": 1.3}},
    ),
    "phimoe, windows, jitter, one kv head, plain rope": (
        "PhimoeForCausalLM",
        "PhimoeConfig",
        {**MOE, "num_key_value_heads": 1, "sliding_window": 6, "router_jitter_noise": 0.2, "rms_norm_eps": 1e-3},
    ),
}
