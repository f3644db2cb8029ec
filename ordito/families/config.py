"""What the configurations of several families have in common."""

from __future__ import annotations

from typing import Any, TypeVar

from ordito.errors import ConfigError
from ordito.families.reader import Reader
from ordito.spec import Activation, Block, Spec

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


Leaf = TypeVar("Leaf", bound=Block)


def leaves(spec: Spec, kind: type[Leaf]) -> list[Leaf]:
    """Every leaf of one kind, in order; the first stands for all where a family's layers are alike."""
    return [leaf for _, leaf in spec.leaves() if isinstance(leaf, kind)]


def has_head(config: Reader) -> bool:
    """Whether the file holds a language-model head: `architectures` names a bare `...Model` where it does not."""
    classes = config.items("architectures", ["ForCausalLM"])
    return not (classes and str(classes[0]).endswith("Model"))


def metadata_value(got: Any, expected: Any, what: str) -> None:
    """Raise `ConfigError` for a property that this GGUF architecture has no key for and that is not its only form."""
    if got != expected:
        raise ConfigError(f"this GGUF architecture has no key for {what}: got {got!r}, expected {expected!r}")
