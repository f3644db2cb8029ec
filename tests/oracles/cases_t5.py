"""Tiny models of the family `t5`."""

from sizes import VOCAB

T5 = {
    "vocab_size": VOCAB,
    "d_model": 60,
    "d_kv": 24,
    "d_ff": 88,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}
SWITCH = {**T5, "num_layers": 4, "num_decoder_layers": 4, "num_experts": 4, "expert_capacity": 5}

CASES = {
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5, gated, no scale, other depths": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            **T5,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 3,
            "d_kv": 16,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
        },
    ),
    "t5, gated silu": ("T5ForConditionalGeneration", "T5Config", {**T5, "feed_forward_proj": "gated-silu"}),
    "t5, encoder alone": (
        "T5EncoderModel",
        "T5Config",
        {**T5, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    ),
    "t5 without a head": ("T5Model", "T5Config", T5),
    "switch": (
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {**SWITCH, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 1},
    ),
    "switch, router bias, experts everywhere": (
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {
            **SWITCH,
            "num_sparse_encoder_layers": 4,
            "num_sparse_decoder_layers": 4,
            "router_bias": True,
            "expert_capacity": 3,
            "dense_act_fn": "gelu_new",
        },
    ),
}
