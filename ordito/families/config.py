"""What the config.json files of several families have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from ordito.errors import ConfigError, OrditoWarning
from ordito.families.reader import Reader
from ordito.spec import Activation, Attention, Block, Spec

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "relu": "relu",
}
"""`hidden_act` of config.json -> activation."""

PUBLISHED: dict[Activation, str] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "gelu_sigmoid": "quick_gelu",
    "relu": "relu",
}
"""Activation -> `hidden_act` of config.json."""


QKV_BIAS: tuple[Literal["q", "k", "v", "o"], ...] = ("q", "k", "v")
QKVO_BIAS: tuple[Literal["q", "k", "v", "o"], ...] = ("q", "k", "v", "o")
"""The attention projections that have a bias."""

TEXT_HALF_ALIASES = (
    (r"^(?:language_model\.model|model\.language_model)\.", "model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
"""Names of a multimodal model's language model -> those of a language model alone."""

Leaf = TypeVar("Leaf", bound=Block)


def leaves(spec: Spec, kind: type[Leaf]) -> list[Leaf]:
    """Every leaf of one kind, in order. Where a family's layers are all alike, the first one describes them all."""
    return [leaf for _, leaf in spec.leaves() if isinstance(leaf, kind)]


def layers_with(spec: Spec, kind: type[Block], stack: str = "layers") -> list[int]:
    """The numbers of the layers of a stack that have a leaf of one kind."""
    return [int(path.split(".")[1]) for path, leaf in spec.leaves() if path.startswith(f"{stack}.") and isinstance(leaf, kind)]


def has_head(config: Reader) -> bool:
    """Whether the checkpoint has a language-model head: without one, `architectures` names a bare `...Model`."""
    classes = config.items("architectures", ["ForCausalLM"])
    return not (classes and str(classes[0]).endswith("Model"))


def text_half(config: Reader) -> Reader:
    """The language model's half of a vision-language model's config.json: the object at `text_config`.

    Warns (`OrditoWarning`) that images are not supported. Raises `ConfigError` if the key is missing.
    """
    text = config.section("text_config")
    if text is None:
        raise config.fail("text_config", None, f"the text half of a {config.text('model_type')} model")
    warnings.warn(f"{config.where}: images are not supported yet, so only the text half is read", OrditoWarning, stacklevel=3)
    return text


def head_size(source: Reader, d_model: int, n_heads: int) -> int:
    """The default head_dim, d_model // n_heads. Raises `ConfigError` if there are more heads than d_model."""
    if n_heads > d_model:
        raise ConfigError(f"{source.where}: got {n_heads} heads for a width of {d_model}, expected at most as many")
    return d_model // n_heads


SLIDING, FULL = "sliding_attention", "full_attention"


def windows_from_config(
    config: Reader, n_layers: int, window: int | None, slides: Callable[[int], bool]
) -> tuple[int | None, ...]:
    """The attention window of each layer (None: full attention), by `layer_types`, or, if that is missing, by `slides(i)`."""
    kinds = config.items("layer_types", None)
    if kinds is None:
        kinds = [SLIDING if slides(i) else FULL for i in range(n_layers)]
    elif len(kinds) != n_layers or not set(map(str, kinds)) <= {SLIDING, FULL}:
        raise config.fail("layer_types", kinds, f"{n_layers} entries of {SLIDING!r} or {FULL!r}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def layer_types(spec: Spec) -> list[str]:
    """`layer_types` of config.json: the inverse of `windows_from_config`."""
    return [FULL if attention.window is None else SLIDING for attention in leaves(spec, Attention)]


def widest_window(spec: Spec) -> int | None:
    """The window of the layers that have one, or None if all have full attention."""
    return max((a.window for a in leaves(spec, Attention) if a.window is not None), default=None)


def metadata_value(got: Any, expected: Any, what: str) -> None:
    """Raise `ConfigError` unless a property for which the GGUF architecture has no key has the value that readers assume."""
    if got != expected:
        raise ConfigError(f"this GGUF architecture has no key for {what}: got {got!r}, expected {expected!r}")
