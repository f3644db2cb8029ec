"""Tiny models of the family `gpt`."""

from sizes import VOCAB

GPT = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 60, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}

CASES = {
    "gpt1": ("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", GPT),
    "gpt1, relu, untied": (
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {**GPT, "n_head": 3, "afn": "relu", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False},
    ),
    "gpt1 without a head": ("OpenAIGPTModel", "OpenAIGPTConfig", {**GPT, "afn": "silu"}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    "gpt2, erf, scale by layer, untied": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            **GPT,
            "n_head": 5,
            "n_inner": 110,
            "activation_function": "gelu",
            "scale_attn_by_inverse_layer_idx": True,
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2, sigmoid gelu, no scale": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**GPT, "activation_function": "quick_gelu", "scale_attn_weights": False},
    ),
    "gpt2 without a head": ("GPT2Model", "GPT2Config", GPT),
}
