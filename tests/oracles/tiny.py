"""Tiny random models made by transformers: every special feature on, no weight neutral, odd sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 97
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 90,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [2.0 + 0.7 * i for i in range(8)]
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
BERT = {"vocab_size": VOCAB, "hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 110}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"rms_norm_eps": 1e-3}),
    "llama, one kv head, all biases, head_dim, llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
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
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama, dynamic": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama, yarn": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
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
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": SHORT,
                "long_factor": LONG,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama without a head": ("LlamaModel", "LlamaConfig", {}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {"head_dim": 24, "num_key_value_heads": 1}),
    "gemma, all heads, biases": (
        "GemmaForCausalLM",
        "GemmaConfig",
        {"head_dim": 16, "num_key_value_heads": 4, "attention_bias": True},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**GEMMA2, "final_logit_softcapping": 3.0}),
    "gemma2, no caps, listed layers": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            **GEMMA2,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "num_key_value_heads": 1,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA3),
    "gemma3, one kv head, capped": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**GEMMA3, "num_key_value_heads": 1, "final_logit_softcapping": 3.0, "attention_bias": True, "sliding_window": 3},
    ),
    "gemma3, two-sided": (
        "Gemma3TextModel",
        "Gemma3TextConfig",
        {**GEMMA3, "use_bidirectional_attention": True, "sliding_window": 8},
    ),
    "bert": ("BertModel", "BertConfig", {**BERT, "max_position_embeddings": 50}),
    "bert, tanh gelu, one type": (
        "BertModel",
        "BertConfig",
        {
            **BERT,
            "hidden_act": "gelu_pytorch_tanh",
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-3,
            "max_position_embeddings": 64,
        },
    ),
    "bert, masked": ("BertForMaskedLM", "BertConfig", {**BERT, "max_position_embeddings": 50}),
}
"""Name -> (class, class of its config, config)."""


def make(name: str, **changes: Any) -> Any:
    """The transformers model of a case, with seeded weights in which nothing is neutral."""
    kind, config_kind, config = CASES[name]
    values = (BASE if not config_kind.startswith("Bert") else {}) | config | changes
    made = getattr(transformers, config_kind)(**values)
    made._attn_implementation = "eager"
    model = getattr(transformers, kind)(made)
    generator = torch.Generator().manual_seed(7)
    for key, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * noise)
        else:
            parameter.data.copy_(noise * (1.0 if "embed" in key else 1.5 * parameter.shape[-1] ** -0.5))
    model.tie_weights()
    return model.eval()


def saved(name: str, folder: Path, **changes: Any) -> Any:
    """The model of a case, also written to `folder` as transformers writes it."""
    model = make(name, **changes)
    model.save_pretrained(folder)
    return model


def token_ids(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Random token ids, (batch, length)."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def output(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits, or hidden states of a model without a head."""
    with torch.no_grad():
        result = model(input_ids=ids, **inputs)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value; NaN if anything is."""
    assert got.shape == expected.shape, f"{tuple(got.shape)} is not {tuple(expected.shape)}"
    return float((got - expected).abs().max() / expected.abs().max())
