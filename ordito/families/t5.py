"""T5 (1.0, 1.1, FLAN) and Switch Transformer.

Encoder and decoder of pre-norm layers with RMSNorm, without biases; scores are not scaled. Positions are learned relative
biases on the scores, one table for each stack. 1.0 has ReLU feed-forwards and a tied head; 1.1 and FLAN have GELU-gated ones
(GeGLU) and an untied head. Switch replaces some feed-forwards by experts: each token goes to the best one, until that is at
its capacity. Sources: arXiv:1910.10683 (section 2.1), 2101.03961 (section 2).
"""

from __future__ import annotations

from typing import Any

from ordito.families.config import ACTIVATIONS, PUBLISHED, layers_with, leaves
from ordito.families.family import Family
from ordito.families.naming import Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.t5_gguf import GGUF_T5
from ordito.families.t5_shape import SWITCH, T5, Table, build, stack_names
from ordito.spec import (
    Activation,
    Attention,
    Block,
    FeedForward,
    Head,
    MixtureOfExperts,
    Norm,
    RelativeBias,
    Router,
    Spec,
)

CLASSES = {T5: "T5", SWITCH: "SwitchTransformers"}
IRRELEVANT_HERE = IRRELEVANT | frozenset(
    """dropout_rate output_past n_positions dense_act_fn is_gated_act router_z_loss_coef router_jitter_noise router_dtype
    router_ignore_padding_tokens add_router_probs encoder_sparse_step decoder_sparse_step router_type feed_forward_proj
    batch_prioritized_routing num_selected_experts second_expert_policy""".split()
)


def sparse_layers(n_layers: int, n_sparse: int) -> list[int]:
    """Which layers of a stack have experts if `n_sparse` of them do, spread over the stack as in transformers."""
    step = n_layers // n_sparse if n_sparse else n_layers
    return [i for i in range(n_layers) if step and (step == 1 or i % step == 1)]


def spec_from_config(config: Reader) -> Spec:
    """config.json of `t5` and `switch_transformers`; by `architectures` there is a decoder and a head or not."""
    label = config.text("model_type")
    switch = label == SWITCH
    d_model, n_heads = config.size("d_model", 768 if switch else 512), config.size("num_heads", 12 if switch else 8)
    n_layers, vocab_size = config.bounded("num_layers", 12 if switch else 6), config.size("vocab_size", 32128)
    n_decoder = config.bounded("num_decoder_layers", 12 if switch else n_layers)
    activation, gated = _activation(config, switch)
    mlp = FeedForward(d_model=d_model, d_ff=config.size("d_ff", 2048), activation=activation, gated=gated)
    encoder: list[Block] = [mlp] * n_layers
    decoder: list[Block] = [mlp] * n_decoder
    if switch:
        config.must_be("num_selected_experts", 1)
        mixture = _mixture(config, mlp)
        for layers, key in ((encoder, "num_sparse_encoder_layers"), (decoder, "num_sparse_decoder_layers")):
            for i in sparse_layers(len(layers), config.count(key, 3)):
                layers[i] = mixture
    classes = config.items("architectures", None) or ["ForConditionalGeneration"]
    tied = config.flag("tie_word_embeddings", True)
    # A tied head (T5 1.0, Switch) reads hidden states multiplied by d_model ** -0.5; an untied one (T5 1.1) reads them as is.
    scaled = config.flag("scale_decoder_outputs", tied)
    head = Head(d_model=d_model, vocab_size=vocab_size, tied=tied, scale=d_model**-0.5 if scaled else 1.0)
    spec = build(
        label=label,
        vocab_size=vocab_size,
        d_model=d_model,
        n_heads=n_heads,
        head_dim=config.size("d_kv", 64),
        eps=config.real("layer_norm_epsilon", 1e-6),
        context=config.size("n_positions", 512),
        bias=RelativeBias(
            n_buckets=config.size("relative_attention_num_buckets", 32),
            max_distance=config.size("relative_attention_max_distance", 128),
        ),
        encoder=encoder,
        decoder=[] if str(classes[0]).endswith("EncoderModel") else decoder,
        head=None if str(classes[0]).endswith("Model") else head,
    )
    config.finish(IRRELEVANT_HERE)
    return spec


def _activation(config: Reader, switch: bool) -> tuple[Activation, bool]:
    """The activation, and whether the feed-forward is gated; "gated-gelu" has always meant GELU's tanh approximation."""
    if switch:
        return config.choice("dense_act_fn", ACTIVATIONS, "relu"), False
    text = config.text("feed_forward_proj", "relu")
    gated, name = text.startswith("gated-"), text.removeprefix("gated-")
    options = ACTIVATIONS | {"gelu": "gelu_tanh"} if gated else ACTIVATIONS
    if name not in options:
        raise config.fail("feed_forward_proj", text, f"one of {', '.join(options)}, or gated-...")
    return options[name], gated


def _mixture(config: Reader, expert: FeedForward) -> MixtureOfExperts:
    router = Router(
        n_experts=config.bounded("num_experts", 8),
        top_k=1,
        bias=config.flag("router_bias", False),
        capacity=config.size("expert_capacity", 64),
    )
    return MixtureOfExperts(d_model=expert.d_model, router=router, expert=expert)


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    label, first, mixtures = spec.architecture, leaves(spec, Attention)[0], leaves(spec, MixtureOfExperts)
    mlp = leaves(spec, FeedForward)[0] if leaves(spec, FeedForward) else mixtures[0].expert
    assert isinstance(mlp, FeedForward), "Switch's experts are not mixtures"
    assert first.relative_bias is not None, "T5's positions are relative biases"
    n_encoder = len(layers_with(spec, Attention, "encoder"))
    kind = "ForConditionalGeneration" if spec.head else "Model" if spec.encoder else "EncoderModel"
    config: dict[str, Any] = {
        "architectures": [CLASSES[label] + kind],
        "model_type": label,
        "vocab_size": spec.vocab_size,
        "d_model": spec.d_model,
        "d_kv": first.head_dim,
        "d_ff": mlp.d_ff,
        "num_layers": n_encoder,
        "num_decoder_layers": spec.n_layers if spec.encoder else n_encoder,
        "num_heads": first.n_heads,
        "n_positions": spec.context,
        "relative_attention_num_buckets": first.relative_bias.n_buckets,
        "relative_attention_max_distance": first.relative_bias.max_distance,
        "layer_norm_epsilon": leaves(spec, Norm)[0].eps,
        "is_encoder_decoder": spec.encoder is not None,
    }
    if isinstance(spec.head, Head):
        config |= {"tie_word_embeddings": spec.head.tied, "scale_decoder_outputs": spec.head.scale != 1.0}
    if label == T5:
        name = {"gelu_tanh": "gelu"}.get(mlp.activation, PUBLISHED[mlp.activation]) if mlp.gated else None
        return config | {"feed_forward_proj": f"gated-{name}" if mlp.gated else _plain(mlp.activation)}
    router = mixtures[0].router
    return config | {
        "dense_act_fn": _plain(mlp.activation),
        "num_experts": router.n_experts,
        "expert_capacity": router.capacity,
        "router_bias": router.bias,
        "num_sparse_encoder_layers": _n_sparse(n_encoder, layers_with(spec, MixtureOfExperts, "encoder")),
        "num_sparse_decoder_layers": _n_sparse(spec.n_layers, layers_with(spec, MixtureOfExperts)),
    }


def _plain(activation: Activation) -> str:
    return "gelu_new" if activation == "gelu_tanh" else PUBLISHED[activation]


def _n_sparse(n_layers: int, sparse: list[int]) -> int:
    """The inverse of `sparse_layers`: the n_sparse that gives just these layers, or 0."""
    return next((n for n in range(1, n_layers + 2) if sparse_layers(n_layers, n) == sparse), 0)


def _layer(ours: str) -> Table:
    """Hugging Face's names within a layer: its sublayers are numbered, of which the decoder has one more, cross-attention."""
    last = 2 if ours == "layers" else 1
    attention: Table = {f"attention.{part}": f"layer.0.SelfAttention.{part}" for part in "qkvo"}
    cross: Table = {f"cross.{part}": f"layer.1.EncDecAttention.{part}" for part in "qkvo"}
    dense, mlp = f"layer.{last}.DenseReluDense", f"layer.{last}.mlp"
    return {
        "attention_norm": "layer.0.layer_norm",
        **attention,
        "attention.relative_bias": "layer.0.SelfAttention.relative_attention_bias",
        **(cross | {"cross_norm": "layer.1.layer_norm"} if ours == "layers" else {}),
        "mlp_norm": f"layer.{last}.layer_norm",
        "mlp.gate": f"{dense}.wi_0",
        "mlp.up": f"{dense}.wi_1",
        "mlp.down": f"{dense}.wo",
        "mlp.router": f"{mlp}.router.classifier",
        "mlp.experts.up": f"{mlp}.experts.expert_{{}}.wi",
        "mlp.experts.down": f"{mlp}.experts.expert_{{}}.wo",
    }


def names(spec: Spec) -> Names:
    """Hugging Face's names; the up-projection is `wi_1` in a gated feed-forward and `wi` in a plain one."""
    mlps = leaves(spec, FeedForward)
    plain = not (mlps and mlps[0].gated)
    table = stack_names("encoder", "encoder.block.{}", _layer) | stack_names("layers", "decoder.block.{}", _layer)
    for key, value in table.items():
        if plain and str(key).endswith("mlp.up"):
            table[key] = str(value).replace("wi_1", "wi")
        if spec.architecture == SWITCH:
            table[key] = str(table[key]).replace("DenseReluDense", "mlp")
    return Names(
        {
            "embedding.tokens": "shared",
            **table,
            "encoder_norm": "encoder.final_layer_norm",
            "norm": "decoder.final_layer_norm",
            "head": "lm_head",
        },
        aliases=((r"^(encoder|decoder)\.embed_tokens\.", "shared."),),  # copies, which must be equal
        ignored={
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "transformers never uses it",
        },
    )


FAMILY = Family(
    name="t5",
    title="T5",
    members="T5 1.0, 1.1, FLAN-T5; Switch Transformer",
    model_types=(T5, SWITCH),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
    gguf=GGUF_T5,
)
