"""Tiny models of the family `roberta`."""

from sizes import VOCAB

ROBERTA = {
    "vocab_size": VOCAB,
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 110,
    "max_position_embeddings": 50,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}

CASES = {
    "roberta": ("RobertaModel", "RobertaConfig", ROBERTA),
    "roberta, masked": ("RobertaForMaskedLM", "RobertaConfig", {**ROBERTA, "type_vocab_size": 2}),
    "xlm-roberta, pad 0, tanh gelu": (
        "XLMRobertaModel",
        "XLMRobertaConfig",
        {**ROBERTA, "pad_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
    ),
    "xlm-roberta, masked, untied": (
        "XLMRobertaForMaskedLM",
        "XLMRobertaConfig",
        {**ROBERTA, "tie_word_embeddings": False, "hidden_act": "relu"},
    ),
}
