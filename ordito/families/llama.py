"""LLaMA 1, 2, 3, 3.1, 3.2 (text) and the models of the same shape: SmolLM2, DeepSeek LLM, ANITA, LLaMAntino, ...

Pre-norm layers with RMSNorm: grouped-query attention with rotary positions (RoPE), then a SwiGLU feed-forward, both without
biases; a final norm and the head, tied or not. Sources: arXiv:2302.13971 (section 2.2), 2307.09288, 2407.21783 (section 3.2).
"""

from __future__ import annotations

from typing import Any

from ordito.families import experts
from ordito.families.config import QKVO_BIAS, leaves
from ordito.families.decoder import config_from_sizes, metadata_from_sizes, partly_rotated, sizes_from_config, sizes_from_header
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import Interleaved, Names, Transform
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, Block, FeedForward, Spec

DEFAULTS = {"max_position_embeddings": 2048}


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: llama`, as transformers' LlamaConfig."""
    sizes = sizes_from_config(config, DEFAULTS)
    config.must_be("rope_interleaved", False)
    attention = sizes.attention(bias=QKVO_BIAS if config.flag("attention_bias", False) else ())
    mlp = sizes.mlp(bias=config.flag("mlp_bias", False))
    config.finish(IRRELEVANT)
    return sizes.spec("llama", [sizes.layer(attention, mlp)] * sizes.n_layers)


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    return config_from_sizes(spec, "Llama") | {
        "attention_bias": "q" in leaves(spec, Attention)[0].bias,
        "mlp_bias": leaves(spec, FeedForward)[0].bias,
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of architecture `llama`. That there are biases or an untied head shows in the list of tensors only.

    A file with experts is a Mixtral. There is no key for the sliding window of Mistral 7B v0.1, which is lost.
    """
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    attention = sizes.attention(bias=QKVO_BIAS if "blk.0.attn_q.bias" in header.shapes else ())
    mlp: Block = sizes.mlp(bias="blk.0.ffn_up.bias" in header.shapes)
    label = "llama"
    if reader.count("expert_count", 0):
        mlp, label = experts.mixtral(sizes, **experts.counts_from_header(reader)), "mixtral"
    reader.finish({"expert_feed_forward_length"})
    return sizes.spec(label, [sizes.layer(attention, mlp)] * sizes.n_layers)


def interleaved(spec: Spec, name: str) -> Transform | None:
    """GGUF's `llama` has rotary pairs at channels (2i, 2i + 1) of each head, so the rows of q and k are permuted."""
    part = name.split(".")[-2]
    if part not in ("q", "k"):
        return None
    attention = leaves(spec, Attention)[0]
    return Interleaved(attention.n_heads if part == "q" else attention.n_kv_heads)


NAMES = Names(
    {
        "embedding.tokens": "model.embed_tokens",
        "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
        "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
        "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
        "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
        "layers.{}.attention.o": "model.layers.{}.self_attn.o_proj",
        "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
        "layers.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
        "layers.{}.mlp.up": "model.layers.{}.mlp.up_proj",
        "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
        "norm": "model.norm",
        "head": "lm_head",
    },
    aliases=((r"^(?=embed_tokens\.|layers\.|norm\.)", "model."),),
    ignored={r".*\.rotary_emb\.inv_freq": "the rotary frequencies follow from the spec"},
)

GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "layers.{}.attention_norm": "blk.{}.attn_norm",
        "layers.{}.attention.q": "blk.{}.attn_q",
        "layers.{}.attention.k": "blk.{}.attn_k",
        "layers.{}.attention.v": "blk.{}.attn_v",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.mlp_norm": "blk.{}.ffn_norm",
        "layers.{}.mlp.gate": "blk.{}.ffn_gate",
        "layers.{}.mlp.up": "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    transform=interleaved,
)

FAMILY = Family(
    name="llama",
    title="LLaMA",
    members="LLaMA 1, 2, 3, 3.1, 3.2 (text); SmolLM2",
    model_types=("llama",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("llama",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_sizes,
        names=lambda spec: GGUF_NAMES,
        caveat=partly_rotated,
    ),
    prompts=(
        "llama-4",
        "llama-3.1",
        "llama-3",
        "smollm2",
        "chatml",
        "mistral-v13",
        "mistral-v11",
        "mistral-v7-tekken",
        "mistral-v7",
        "mistral-v3-tekken",
        "mistral-v3",
        "llama-2",
    ),
)
