"""Tiny models of the family `llama`."""

from sizes import BASE

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [2.0 + 0.7 * i for i in range(8)]

CASES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**BASE, "rms_norm_eps": 1e-3}),
    "llama, one kv head, all biases, head_dim, llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **BASE,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": LLAMA3,
        },
    ),
    "llama, linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**BASE, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama, dynamic": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**BASE, "max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama, yarn": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **BASE,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "truncate": False,
            },
        },
    ),
    "llama, longrope": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **BASE,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": SHORT,
                "long_factor": LONG,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama without a head": ("LlamaModel", "LlamaConfig", BASE),
}
