"""Sizes that the tiny models share: odd, small, and never equal where a mistake could hide."""

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
