"""Tiny models of the family `gemma`."""

from sizes import BASE

GEMMA2 = {"head_dim": 24, "sliding_window": 7, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}
GEMMA3 = {
    "head_dim": 24,
    "num_hidden_layers": 7,
    "sliding_window": 7,
    "query_pre_attn_scalar": 20,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}

CASES = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**BASE, "head_dim": 24, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "gemma, all heads, biases": (
        "GemmaForCausalLM",
        "GemmaConfig",
        {**BASE, "head_dim": 16, "num_key_value_heads": 4, "attention_bias": True, "rms_norm_eps": 1e-3},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**BASE, **GEMMA2, "final_logit_softcapping": 3.0}),
    "gemma2, no caps, listed layers": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            **BASE,
            **GEMMA2,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "num_key_value_heads": 1,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**BASE, **GEMMA3}),
    "gemma3, one kv head, capped": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **BASE,
            **GEMMA3,
            "num_key_value_heads": 1,
            "final_logit_softcapping": 3.0,
            "attention_bias": True,
            "sliding_window": 3,
        },
    ),
    "gemma3, two-sided": (
        "Gemma3TextModel",
        "Gemma3TextConfig",
        {**BASE, **GEMMA3, "use_bidirectional_attention": True, "sliding_window": 8},
    ),
}
