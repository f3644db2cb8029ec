"""Tiny models of the family `gpt_oss`."""

from sizes import BASE

YARN = {
    "rope_type": "yarn",
    "rope_theta": 150.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 32,
}
OSS = {**BASE, "head_dim": 32, "intermediate_size": 40, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 7}

CASES = {
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**OSS, "swiglu_limit": 2.0, "rope_parameters": YARN}),
    "gpt_oss, as GGUF knows it": ("GptOssForCausalLM", "GptOssConfig", {**OSS, "rope_parameters": YARN}),
    "gpt_oss, tight limit, no biases, listed layers, tied": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            **OSS,
            "head_dim": 24,
            "num_key_value_heads": 1,
            "num_experts_per_tok": 3,
            "swiglu_limit": 0.6,
            "swiglu_alpha": 1.1,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e3},
        },
    ),
}
