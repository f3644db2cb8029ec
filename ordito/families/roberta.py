"""RoBERTa and XLM-RoBERTa, and embedding models trained from them: multilingual E5, BGE-M3, ...

BERT's layers; the first token has the position pad_token_id + 1, as fairseq, where these models come from, reserves the rows
up to pad_token_id. Sources: arXiv:1907.11692, 1911.02116.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import bert
from ordito.families.config import ACTIVATIONS, leaves
from ordito.families.family import Family
from ordito.families.naming import Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Head, Spec

CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta"}


def spec_from_config(config: Reader) -> Spec:
    """config.json of `roberta` and `xlm-roberta`; by `architectures` the model has a pooler or a masked-language-model head."""
    label = config.text("model_type")
    bare, masked = f"{CLASSES[label]}Model", f"{CLASSES[label]}ForMaskedLM"
    classes = config.items("architectures", None) or [bare]
    if classes[0] not in (bare, masked):
        raise config.fail("architectures", classes[0], f"{bare} or {masked}")
    config.must_be("position_embedding_type", "absolute")
    config.must_be("is_decoder", False)
    config.must_be("add_cross_attention", False)
    rows, first = config.size("max_position_embeddings", 512), config.count("pad_token_id", 1) + 1
    if first >= rows:
        raise config.fail("pad_token_id", first - 1, f"less than max_position_embeddings - 1 = {rows - 1}")
    spec = bert.build(
        label=label,
        vocab_size=config.size("vocab_size", 30522 if label == "xlm-roberta" else 50265),
        d_model=config.size("hidden_size", 768),
        n_layers=config.bounded("num_hidden_layers", 12),
        n_heads=config.size("num_attention_heads", 12),
        d_ff=config.size("intermediate_size", 3072),
        n_positions=rows,
        first_position=first,
        n_types=config.size("type_vocab_size", 2),
        eps=config.real("layer_norm_eps", 1e-12),
        activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
        head_activation="gelu",  # whatever `hidden_act` is
        pooler=classes[0] == bare,
        masked_head=classes[0] == masked,
        tied=config.flag("tie_word_embeddings", True),
    )
    config.finish(IRRELEVANT)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    prefix = CLASSES[spec.architecture]
    return bert.config_from_spec(spec) | {
        "architectures": [f"{prefix}ForMaskedLM" if spec.head else f"{prefix}Model"],
        "pad_token_id": spec.embedding.first_position - 1,
    }


NAMES = replace(
    bert.NAMES,
    table={
        **bert.NAMES.table,
        "head_transform": "lm_head.dense",
        "head_norm": "lm_head.layer_norm",
        "head.weight": "lm_head.decoder.weight",
        "head.bias": "lm_head.bias",
    },
    aliases=((r"^roberta\.", ""), (r"^lm_head\.decoder\.bias$", "lm_head.bias")),
    ignored={
        r"embeddings\.position_ids": "positions follow from the spec",
        r"lm_head\.decoder\.weight": "the head is tied to the token embedding",
    },
)


def names(spec: Spec) -> Names:
    """Hugging Face's names; an untied head has a bias of its own, and `lm_head.bias` is unused."""
    if all(head.tied for head in leaves(spec, Head)):
        return bert.without_others(NAMES, spec, "lm_head")
    untied = replace(
        NAMES,
        table={**NAMES.table, "head.bias": "lm_head.decoder.bias"},
        aliases=NAMES.aliases[:1],
        ignored={**NAMES.ignored, r"lm_head\.bias": "the untied head has a bias of its own"},
    )
    return bert.without_others(untied, spec, "lm_head")


FAMILY = Family(
    name="roberta",
    title="RoBERTa",
    members="RoBERTa, XLM-RoBERTa; multilingual E5, BGE-M3 and encoders of the same shape",
    model_types=tuple(CLASSES),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
)
