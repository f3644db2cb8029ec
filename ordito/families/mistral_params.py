"""Mistral's own configuration, params.json, translated to an equivalent config.json.

Fields are those of mistral-inference (`TransformerArgs`); `yarn` and `llama_4_scaling` are read as vLLM does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ordito.families.config import FULL, SLIDING
from ordito.families.reader import Reader

RENAMED = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "tied_embeddings": "tie_word_embeddings",
}
"""Key of params.json -> key of config.json."""
IRRELEVANT = {"model_type", "max_batch_size", "use_biases", "multimodal", "vision_encoder", "quantization", "max_seq_len"}


def config_from_params(params: Mapping[str, Any], where: str = "params.json") -> dict[str, Any]:
    """The config.json equivalent to a params.json. Raises `ConfigError` for what no Mistral has, such as biases."""
    reader = Reader(params, where)
    for key in ("use_biases", "causal"):
        reader.must_be(key, key == "causal")
    config: dict[str, Any] = {RENAMED[key]: reader.get(key) for key in RENAMED if key in params}
    config |= {"model_type": "mistral", "sliding_window": None}
    context = reader.size("max_position_embeddings", reader.size("max_seq_len", 32768))
    config["max_position_embeddings"] = context
    _add_windows(config, reader)
    if (experts := reader.section("moe")) is not None:
        config |= {
            "model_type": "mixtral",
            "num_local_experts": experts.get("num_experts"),
            "num_experts_per_tok": experts.get("num_experts_per_tok"),
        }
    if (yarn := reader.section("yarn")) is not None:
        config |= {"model_type": "ministral3", "rope_parameters": _rope(reader, yarn)}
    reader.finish(IRRELEVANT | set(RENAMED))
    return config


def _add_windows(config: dict[str, Any], reader: Reader) -> None:
    """Add the sliding windows: one for all layers, or a list that is repeated over the layers (None: full attention)."""
    windows = reader.get("sliding_window", reader.get("_sliding_window", None))
    if not isinstance(windows, list):
        config["sliding_window"] = windows
        return
    n_layers = reader.bounded("n_layers")
    if not windows or n_layers % len(windows):
        raise reader.fail("sliding_window", windows, f"a list that repeats within {n_layers} layers")
    kinds = [FULL if window is None else SLIDING for window in windows] * (n_layers // len(windows))
    config |= {"model_type": "ministral", "layer_types": kinds, "sliding_window": next(filter(None, windows), None)}


def _rope(reader: Reader, yarn: Reader) -> dict[str, Any]:
    """`rope_parameters` of Ministral 3; without `apply_scale` YaRN's attention factor is 1."""
    parameters = {
        "rope_type": "yarn",
        "rope_theta": reader.real("rope_theta", 1e4),
        "factor": yarn.get("factor"),
        "original_max_position_embeddings": yarn.get("original_max_position_embeddings"),
        "beta_fast": yarn.get("beta", 32.0),
        "beta_slow": yarn.get("alpha", 1.0),
    }
    if not yarn.flag("apply_scale", True):
        parameters |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    temperature = reader.section("llama_4_scaling")
    return parameters | ({"llama_4_scaling_beta": temperature.get("beta")} if temperature else {})
