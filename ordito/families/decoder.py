"""What nearly every decoder has in common: its sizes in config.json and in GGUF metadata, and a pre-norm layer.

A family file reads the `Sizes`, builds its layers from them, and adds what is peculiar to the family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ordito.families.config import ACTIVATIONS, PUBLISHED, has_head, head_size, leaves, metadata_value
from ordito.families.family import Header
from ordito.families.reader import REQUIRED, Reader
from ordito.families.rope import metadata_from_rope, parameters_from_rope, rope_from_config, rope_from_header
from ordito.spec import (
    Activation,
    Attention,
    Block,
    Chain,
    Embedding,
    FeedForward,
    Head,
    MixtureOfExperts,
    Norm,
    Residual,
    Rope,
    Spec,
    Stack,
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a decoder, and builders of its blocks. `norms` are the fields (of `Norm`) that all of its norms share."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    context: int
    eps: float
    rope: Rope
    activation: Activation = "silu"
    tied: bool = False
    head: bool = True
    norms: Mapping[str, Any] = field(default_factory=lambda: {"kind": "rms"})
    embedding_scale: float = 1.0

    def norm(self, name: str, width: int | None = None) -> Norm:
        """A norm over `width` channels, by default d_model."""
        return Norm(name=name, d_model=width or self.d_model, eps=self.eps, **self.norms)

    def attention(self, **fields: Any) -> Attention:
        """Attention with rope and scores scaled by head_dim ** -0.5; `fields` of `Attention` are added or replaced."""
        usual = {
            "d_model": self.d_model,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "scale": self.head_dim**-0.5,
            "rope": self.rope,
        }
        return Attention(**usual | fields)

    def mlp(self, **fields: Any) -> FeedForward:
        """A gated feed-forward; `fields` of `FeedForward` are added or replaced."""
        return FeedForward(
            **{"d_model": self.d_model, "d_ff": self.d_ff, "activation": self.activation, "gated": True} | fields
        )

    def layer(self, attention: Block, mlp: Block) -> Chain:
        """A pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x))."""
        return Chain(Residual(Chain(self.norm("attention_norm"), attention)), Residual(Chain(self.norm("mlp_norm"), mlp)))

    def spec(self, architecture: str, layers: Sequence[Block], **head: Any) -> Spec:
        """The whole decoder: embedding, `layers`, final norm, head; `head` are further fields of the `Head`."""
        embedding = Embedding(vocab_size=self.vocab_size, d_model=self.d_model, scale=self.embedding_scale)
        return Spec(
            architecture=architecture,
            context=self.context,
            body=Chain(embedding, Stack(layers=tuple(layers)), self.norm("norm")),
            head=Head(d_model=self.d_model, vocab_size=self.vocab_size, tied=self.tied, **head) if self.head else None,
        )


def sizes_from_config(
    config: Reader,
    defaults: Mapping[str, Any],
    *,
    theta: float = 10000.0,
    eps: str = "rms_norm_eps",
    norms: Mapping[str, Any] | None = None,
    rope: Rope | None = None,
    own_rope_keys: Collection[str] = (),
) -> Sizes:
    """The sizes in a config.json.

    `defaults` are those of transformers' configuration class, which published files rely on; a key without one is required.
    `eps` names the key of the norms' epsilon, `theta` is the default base of the rotary frequencies. A family that reads
    its `rope` itself passes it; one that reads further keys of the rope's object names them in `own_rope_keys`.
    """

    def default(key: str, otherwise: Any = REQUIRED) -> Any:
        return defaults.get(key, otherwise)

    d_model = config.size("hidden_size", default("hidden_size"))
    n_heads = config.size("num_attention_heads", default("num_attention_heads"))
    context = config.size("max_position_embeddings", default("max_position_embeddings"))
    head_dim = config.size("head_dim", default("head_dim", None)) or head_size(config, d_model, n_heads)
    return Sizes(
        vocab_size=config.size("vocab_size", default("vocab_size")),
        d_model=d_model,
        n_layers=config.bounded("num_hidden_layers", default("num_hidden_layers")),
        n_heads=n_heads,
        n_kv_heads=config.size("num_key_value_heads", default("num_key_value_heads", n_heads)),
        head_dim=head_dim,
        d_ff=config.size("intermediate_size", default("intermediate_size")),
        context=context,
        eps=config.real(eps, default(eps, 1e-6)),
        rope=rope or rope_from_config(config, head_dim, context, theta, own_rope_keys, default("partial_rotary_factor", 1.0)),
        activation=config.choice("hidden_act", ACTIVATIONS, default("hidden_act", "silu")),
        tied=config.flag("tie_word_embeddings", default("tie_word_embeddings", False)),
        head=has_head(config),
        norms=norms or {"kind": "rms"},
    )


def config_from_sizes(spec: Spec, prefix: str, *, eps: str = "rms_norm_eps") -> dict[str, Any]:
    """The inverse of `sizes_from_config`; the names of transformers' classes begin with `prefix`."""
    attention, norm = leaves(spec, Attention)[0], leaves(spec, Norm)[0]
    mlp = feedforwards(spec)[0]
    rope = next((a.rope for a in leaves(spec, Attention) if a.rope), None)
    return {
        "architectures": [f"{prefix}ForCausalLM" if spec.head else f"{prefix}Model"],
        "model_type": spec.architecture,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.context,
        eps: norm.eps,
        "tie_word_embeddings": spec.tied,
        **({"rope_parameters": parameters_from_rope(rope, attention.head_dim)} if rope else {}),
    }


def sizes_from_header(
    header: Header, reader: Reader, *, activation: Activation = "silu", norms: Mapping[str, Any] | None = None
) -> Sizes:
    """The sizes in GGUF metadata; the vocabulary's size and whether the head is tied follow from the list of tensors."""
    d_model, n_heads = reader.size("embedding_length"), reader.size("attention.head_count")
    context = reader.size("context_length")
    head_dim = reader.size("attention.key_length", None) or head_size(reader, d_model, n_heads)
    reader.must_be("attention.value_length", head_dim)
    reader.get("vocab_size", None)
    return Sizes(
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=d_model,
        n_layers=reader.bounded("block_count"),
        n_heads=n_heads,
        n_kv_heads=reader.size("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        d_ff=reader.size("feed_forward_length", None) or reader.size("expert_feed_forward_length"),
        context=context,
        eps=reader.real("attention.layer_norm_rms_epsilon", None) or reader.real("attention.layer_norm_epsilon"),
        rope=rope_from_header(header, reader, reader.size("rope.dimension_count", head_dim), context),
        activation=activation,
        tied="output.weight" not in header.shapes,
        norms=norms or {"kind": "rms"},
    )


def metadata_from_sizes(spec: Spec, activation: Activation = "silu") -> dict[str, Any]:
    """The inverse of `sizes_from_header`. Raises `ConfigError` for another activation than `activation`, which has no key."""
    attention, norm = leaves(spec, Attention)[0], leaves(spec, Norm)[0]
    mlp = feedforwards(spec)[0]
    rope = next((a.rope for a in leaves(spec, Attention) if a.rope), None)
    metadata_value(mlp.activation, activation, "the activation")
    eps = "attention.layer_norm_epsilon" if norm.kind == "layer" else "attention.layer_norm_rms_epsilon"
    return {
        "vocab_size": spec.vocab_size,
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": attention.n_heads,
        "attention.head_count_kv": attention.n_kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        eps: norm.eps,
        **(metadata_from_rope(rope) if rope else {}),
    }


def partly_rotated(spec: Spec) -> str | None:
    """The caveat (`GGUF.caveat`) of architectures whose heads llama.cpp rotates whole."""
    for a in leaves(spec, Attention):
        if a.rope is not None and a.rope.dim != a.head_dim:
            return (
                "llama.cpp will refuse this file, because it rotates the heads of this architecture whole, and by "
                f"partial_rotary_factor {a.rope.dim} of their {a.head_dim} channels are rotated"
            )
    return None


def feedforwards(spec: Spec) -> list[FeedForward]:
    """All dense feed-forwards in order, then an expert of each mixture."""
    dense = leaves(spec, FeedForward)
    experts = [mixture.expert for mixture in leaves(spec, MixtureOfExperts)]
    return dense + [expert for expert in experts if isinstance(expert, FeedForward)]
