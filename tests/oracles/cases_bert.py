"""Tiny models of the family `bert`."""

from sizes import VOCAB

BERT = {"vocab_size": VOCAB, "hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 110}


CASES = {
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
    "bert, masked, untied": ("BertForMaskedLM", "BertConfig", {**BERT, "tie_word_embeddings": False}),
    "bert, masked": ("BertForMaskedLM", "BertConfig", {**BERT, "max_position_embeddings": 50}),
}
