"""Tiny models of the family `modernbert`."""

from sizes import VOCAB

MODERN = {
    "vocab_size": VOCAB,
    "hidden_size": 60,
    "intermediate_size": 50,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
    "local_attention": 10,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}

CASES = {
    "modernbert": ("ModernBertModel", "ModernBertConfig", MODERN),
    "modernbert, masked": ("ModernBertForMaskedLM", "ModernBertConfig", MODERN),
    "modernbert, masked, all biases, other layers, untied": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {
            **MODERN,
            "num_attention_heads": 5,
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "classifier_activation": "silu",
            "decoder_bias": False,
            "hidden_activation": "gelu_pytorch_tanh",
            "norm_eps": 1e-3,
            "local_attention": 7,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e3},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7e2},
            },
        },
    ),
}
