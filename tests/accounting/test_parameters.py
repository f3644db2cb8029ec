"""Sizes equal the published totals (counted by transformers on the meta device)."""

from __future__ import annotations

import pytest

import ordito
from ordito import accounting as account
from ordito import spec
from ordito.errors import OrditoError
from ordito.families import spec_from_config


def llama(vocab, d, layers, heads, kv, d_ff, **more):
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": d_ff,
        **more,
    }


def gemma(kind, vocab, d, layers, heads, kv, d_ff, **more):
    return llama(vocab, d, layers, heads, kv, d_ff, head_dim=256) | {"model_type": kind, **more}


def bert(d, layers, heads, d_ff):
    sizes = {"hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": d_ff}
    return {"model_type": "bert", "vocab_size": 30522, **sizes}


@pytest.mark.parametrize(
    ("config", "parameters", "kv_bytes"),
    [
        (llama(32000, 4096, 32, 32, 32, 11008), 6_738_415_616, 524_288),
        (llama(32000, 8192, 80, 64, 8, 28672), 68_976_648_192, 327_680),
        (llama(128256, 4096, 32, 32, 8, 14336), 8_030_261_248, 131_072),
        (llama(128256, 16384, 126, 128, 8, 53248), 405_853_388_800, 516_096),
        (llama(128256, 2048, 16, 32, 8, 8192, tie_word_embeddings=True), 1_235_814_400, 32_768),
        (llama(49152, 576, 30, 9, 3, 1536, tie_word_embeddings=True), 134_515_008, 23_040),
        (gemma("gemma", 256000, 2048, 18, 8, 1, 16384), 2_506_172_416, 18_432),
        (gemma("gemma", 256000, 3072, 28, 16, 16, 24576), 8_537_680_896, 458_752),
        (gemma("gemma2", 256000, 2304, 26, 8, 4, 9216), 2_614_341_888, 106_496),
        (gemma("gemma3_text", 262144, 640, 18, 4, 1, 2048, sliding_window=512), 268_098_176, 18_432),
        (gemma("gemma3_text", 262144, 1152, 26, 4, 1, 6912, sliding_window=512), 999_885_952, 26_624),
        (bert(768, 12, 12, 3072), 109_482_240, 0),
        (bert(1024, 24, 16, 4096), 335_141_888, 0),
        (bert(384, 6, 12, 1536), 22_713_216, 0),
    ],
    ids=[
        "LLaMA 2 7B",
        "LLaMA 2 70B",
        "Llama 3 8B",
        "Llama 3.1 405B",
        "Llama 3.2 1B",
        "SmolLM2 135M",
        "Gemma 1 2B",
        "Gemma 1 7B",
        "Gemma 2 2B",
        "Gemma 3 270M",
        "Gemma 3 1B",
        "BERT base",
        "BERT large",
        "MiniLM L6",
    ],
)
def test_published_totals(config, parameters, kv_bytes):
    count = account.count(spec_from_config(config))
    assert count.parameters == count.active_parameters == parameters
    assert count.kv_bytes_per_token == kv_bytes


def test_windows_stop_growing():
    count = account.count(spec_from_config(gemma("gemma2", 256000, 2304, 26, 8, 4, 9216)))
    assert count.kv_bytes_growing == 53_248


def test_experts_left_out_are_not_active():
    expert = spec.FeedForward(d_model=4096, d_ff=14336, activation="silu", gated=True)
    mixture = spec.MixtureOfExperts(d_model=4096, router=spec.Router(n_experts=8, top_k=2), expert=expert)
    attention = spec.Attention(d_model=4096, n_heads=32, n_kv_heads=8, head_dim=128, scale=128**-0.5)

    def norm(name):
        return spec.Norm(name=name, kind="rms", d_model=4096, eps=1e-5)

    layer = spec.Chain(
        spec.Residual(spec.Chain(norm("attention_norm"), attention)), spec.Residual(spec.Chain(norm("mlp_norm"), mixture))
    )
    mixtral = spec.Spec(
        architecture="mixtral",
        context=32768,
        body=spec.Chain(spec.Embedding(vocab_size=32000, d_model=4096), spec.Stack(layers=(layer,) * 32), norm("norm")),
        head=spec.Head(d_model=4096, vocab_size=32000, tied=False),
    )
    count = account.count(mixtral)
    assert count.parameters == 46_702_792_704  # Mixtral 8x7B: not 56 B
    assert count.active_parameters == 12_879_925_248


DEEPSEEK_V2 = {
    "model_type": "deepseek_v2",
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
}
DEEPSEEK_V2_LITE = DEEPSEEK_V2 | {
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "q_lora_rank": None,
}
MAVERICK = {"model_type": "llama4_text", "num_local_experts": 128, "interleave_moe_layer_step": 2}


@pytest.mark.parametrize(
    ("config", "parameters", "active", "kv_bytes", "growing"),
    [
        ({"model_type": "deepseek_v3"}, 671_026_404_352, 37_552_282_624, 70_272, 70_272),
        (DEEPSEEK_V2, 235_741_434_880, 21_375_800_320, 69_120, 69_120),
        (DEEPSEEK_V2_LITE, 15_706_484_224, 2_661_150_208, 31_104, 31_104),
        ({"model_type": "llama4_text"}, 107_769_861_120, 17_172_894_720, 196_608, 49_152),
        (MAVERICK, 400_711_848_960, 17_184_691_200, 196_608, 49_152),
    ],
    ids=["DeepSeek-V3", "DeepSeek-V2", "DeepSeek-V2-Lite", "Llama 4 Scout (text)", "Llama 4 Maverick (text)"],
)
def test_published_totals_of_mixtures(config, parameters, active, kv_bytes, growing):
    count = account.count(spec_from_config(config))
    assert (count.parameters, count.active_parameters) == (parameters, active)
    assert (count.kv_bytes_per_token, count.kv_bytes_growing) == (kv_bytes, growing)


def test_totals_from_the_public_name():
    totals = ordito.account.count(spec_from_config(DEEPSEEK_V2_LITE))
    assert (totals.parameters, totals.active_parameters, totals.kv_bytes_per_token) == (15_706_484_224, 2_661_150_208, 31_104)
    with pytest.raises(OrditoError, match="account"):
        ordito.account.count("deepseek-v2-lite")


def test_multi_token_prediction_is_counted_apart():
    alone, whole = (spec_from_config({"model_type": "deepseek_v3", "num_nextn_predict_layers": n}) for n in (0, 1))
    assert account.count(whole).ahead_parameters == 11_610_067_968
    assert account.count(whole).parameters == account.count(alone).parameters
    assert account.count(alone).ahead_parameters == 0
