"""Reading untrusted configurations: the type and range of every value is checked, and no key is dropped silently."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ordito.errors import ConfigError, OrditoWarning, did_you_mean

REQUIRED = object()
"""The default of a key that has none: it must be present."""


def shown(value: Any) -> str:
    """A value of a configuration as messages show it, not longer than a line."""
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _is_real(value: Any) -> bool:
    # An integer of JSON may be larger than any float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


class Reader:
    """A configuration that remembers which of its keys were read, so that `finish` can warn of the others.

    `where` names the source in errors. A key whose value is null counts as missing, as in transformers. Getters raise
    `ConfigError` for a missing key without a default, for a wrong type and for a number out of range; they return the
    default as it is, unchecked.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self.seen: set[str] = set()

    def changed(self, **values: Any) -> Reader:
        """The same configuration with other `values` of some keys; the two remember together what was read of either."""
        reader = type(self)({**self.values, **values}, self.where)
        reader.seen = self.seen
        return reader

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value, unchecked."""
        self.seen.add(key)
        value = self.values.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            near = did_you_mean(key, (k for k in self.values if k not in self.seen))
            raise ConfigError(f"{self.where}: the key {key!r} is missing{near}")
        return default

    def fail(self, key: str, got: Any, expected: str) -> ConfigError:
        """The error for a wrong value of `key`, for the caller to raise."""
        return ConfigError(f"{self.where}: {key} is {shown(got)}, expected {expected}")

    def size(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number from 1 to 2^31."""
        return self._number(key, default, 1)

    def count(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number from 0 to 2^31."""
        return self._number(key, default, 0)

    def bounded(self, key: str, default: Any = REQUIRED, least: int = 1) -> Any:
        """A whole number from `least` to 2048: of layers or experts, which a spec writes out one by one."""
        return self._number(key, default, least, most=2048)

    def _number(self, key: str, default: Any, least: int, most: int = 2**31) -> Any:
        value = self.get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value in (math.inf, -math.inf):
            raise self.fail(key, value, "a whole number")
        if value != int(value) or not least <= value <= most:
            raise self.fail(key, value, f"a whole number from {least} to {'2^31' if most == 2**31 else most}")
        return int(value)

    def real(self, key: str, default: Any = REQUIRED) -> Any:
        """A finite number above zero."""
        value = self.get(key, default)
        if value is default:
            return value
        if not _is_real(value):
            raise self.fail(key, value, "a finite number above zero")
        return float(value)

    def reals(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers above zero."""
        values = self.items(key)
        if not all(map(_is_real, values)):
            raise self.fail(key, values, "a list of finite numbers above zero")
        return tuple(map(float, values))

    def real_or_none(self, key: str, default: float | None = None) -> Any:
        """A finite number above zero, or None if it is null or 0; a missing key means the default."""
        value = self.get(key, None) if key in self.values else default
        return self.real(key, default) if value else None

    def size_or_none(self, key: str, default: int | None) -> Any:
        """A size, or None if it is null or 0 (a window that is turned off); a missing key means the default."""
        return self.count(key, None if key in self.values else default) or None

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool) and value is not default:
            raise self.fail(key, value, "true or false")
        return value

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A string."""
        value = self.get(key, default)
        if not isinstance(value, str) and value is not default:
            raise self.fail(key, value, "a string")
        return value

    def items(self, key: str, default: Any = REQUIRED) -> Any:
        """A list."""
        value = self.get(key, default)
        if not isinstance(value, (list, tuple)) and value is not default:
            raise self.fail(key, value, "a list")
        return value

    def section(self, key: str) -> Reader | None:
        """A `Reader` of the object at `key`, or None if the key is missing."""
        value = self.get(key, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail(key, value, "an object")
        return Reader(value, f"{self.where}: {key}")

    def choice(self, key: str, options: Mapping[str, Any], default: Any = REQUIRED) -> Any:
        """The value in `options` of the string at `key`."""
        value = self.text(key, default)
        if value not in options:
            raise self.fail(key, value, f"one of {', '.join(options)}{did_you_mean(str(value), options)}")
        return options[value]

    def must_be(self, key: str, expected: Any) -> None:
        """Raise `ConfigError` for another value than `expected`, which would be another architecture; missing is fine."""
        value = self.get(key, expected)
        if value != expected:
            raise self.fail(key, value, f"{expected!r}, the only form of this family")

    def finish(self, irrelevant: Iterable[str] = ()) -> None:
        """Warn (`OrditoWarning`) of every key that was not read and is not `irrelevant`, which counts as read."""
        self.seen |= self.values.keys() & set(irrelevant)
        unread = sorted(key for key in self.values.keys() - self.seen if not key.startswith("_"))
        if unread:
            hints = "".join(f"{key!r}{did_you_mean(key, self.seen)}, " for key in unread).rstrip(", ")
            warnings.warn(f"{self.where}: unknown keys were left unused: {hints}", OrditoWarning, stacklevel=2)


IRRELEVANT = frozenset(
    # File bookkeeping, special tokens (which the tokenizer's files give), training and generation settings.
    """architectures model_type transformers_version torch_dtype dtype auto_map id2label label2id problem_type
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id tokenizer_class prefix initializer_range initializer_factor use_cache pretraining_tp
    attention_dropout hidden_dropout_prob attention_probs_dropout_prob classifier_dropout hidden_dropout embd_pdrop
    resid_pdrop attn_pdrop output_attentions output_hidden_states return_dict use_return_dict gradient_checkpointing
    chunk_size_feed_forward task_specific_params finetuning_task is_encoder_decoder is_decoder add_cross_attention
    cross_attention_hidden_size tie_encoder_decoder torchscript pruned_heads use_bfloat16 tf_legacy_loss
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate remove_invalid_values exponential_decay_length_penalty
    suppress_tokens begin_suppress_tokens name_or_path unsloth_version unsloth_fixed is_llama_config
    cache_implementation transformers.js_config output_router_logits router_aux_loss_coef aux_loss_alpha seq_aux
    quantization_config is_matryoshka matryoshka_dimensions""".split()
)
"""Keys of config.json that any family may have and that say nothing about the architecture."""
