"""`ordito show`: what a model is, without loading it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ordito.cli.console import find, write, write_json
from ordito.cli.parameters import default_model, json_output
from ordito.errors import OrditoError
from ordito.units import plural, size

if TYPE_CHECKING:
    from ordito.checkpoint.checkpoint import Checkpoint
    from ordito.spec import Attention, LatentAttention, Spec
    from ordito.text.tokenizer import Tokenizer


@click.command()
@default_model()
@click.option("--template", is_flag=True, help="Print the chat template, and nothing else.")
@json_output
def show(model: str, template: bool, json: bool) -> None:
    """Show architecture, sizes, context, quantization, chat template and licence of MODEL.

    Weights are not read, and PyTorch is not needed; a folder with only a config.json is enough.

    \b
    ordito show gemma3-270m
    ordito show ./my-model/config.json --json
    """
    local = find(model)
    description = describe(opened(local.path), local.name, local.licence)
    if template:
        if not description["chat_template"]:
            raise OrditoError(f"{local.name} has no chat template")
        write(description["chat_template"] + "\n")
    elif json:
        write_json(description)
    else:
        write("\n".join(lines(description)) + "\n")


def opened(path: Path) -> Checkpoint:
    """The checkpoint at a path; a folder with a config.json but no weights gives one without tensors."""
    from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
    from ordito.checkpoint.json_file import read_object
    from ordito.families import spec_from_config

    config = path / "config.json"
    if not config.is_file() or any(path.glob("*.safetensors*")):
        return open_checkpoint(path)
    metadata = read_object(config)
    return Checkpoint(path, (), "huggingface", spec_from_config(metadata, str(config)), metadata, {}, (), {})


def describe(
    checkpoint: Checkpoint, name: str, licence: str | None = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The facts about a checkpoint, as JSON values with stable keys; its tokenizer is read unless it is given."""
    from ordito.accounting import count
    from ordito.errors import TokenizerError
    from ordito.families import family_of
    from ordito.text.from_checkpoint import load_tokenizer

    spec, counted = checkpoint.spec, count(checkpoint.spec)
    with suppress(TokenizerError):
        tokenizer = tokenizer or load_tokenizer(checkpoint)
    total = sum(checkpoint.encodings.values())
    stated = checkpoint.metadata.get("general.license")
    return {
        "name": name,
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "family": family_of(spec).title,
        "architecture": spec.architecture,
        "parameters": counted.parameters,
        "active_parameters": counted.active_parameters,
        "bytes": checkpoint.nbytes or None,
        "quantization": {encoding: n / total for encoding, n in checkpoint.encodings.items()},
        "context": spec.context,
        "vocabulary": spec.vocab_size,
        "d_model": spec.d_model,
        "layers": spec.n_layers,
        "attention": attention(spec),
        "experts": experts(spec),
        "kv_bytes_per_token": counted.kv_bytes_per_token,
        "pooling": None if spec.pooling is None else spec.pooling.to_dict() | {"node": "Pooling"},
        "end_tokens": sorted(tokenizer.token(id) for id in tokenizer.end_ids) if tokenizer else None,
        "chat_template": tokenizer.chat_template if tokenizer else None,
        "licence": licence or (stated if isinstance(stated, str) else None),
    }


def attention(spec: Spec) -> list[dict[str, Any]]:
    """The kinds of attention layers, each with the number of its layers."""
    from ordito.spec import Attention, LatentAttention

    leaves = [leaf for path, leaf in spec.leaves() if not path.startswith("ahead.")]
    kinds = Counter(
        # T5's first layer holds the position biases, which the others share; apart from that they are alike.
        replace(leaf, relative_bias=None) if isinstance(leaf, Attention) else leaf
        for leaf in leaves
        if isinstance(leaf, (Attention, LatentAttention))
    )
    return [
        {
            "layers": n,
            "heads": block.n_heads,
            "kv_heads": block.n_kv_heads if isinstance(block, Attention) else None,
            "head_dim": block.head_dim if isinstance(block, Attention) else block.q_dim,
            "window": block.window if isinstance(block, Attention) else None,
            "sees": sees(block),
            "rope_theta": block.rope.theta if block.rope else None,
            "rope_scaling": block.rope.scaling.to_dict() if block.rope and block.rope.scaling else None,
        }
        for block, n in kinds.items()
    ]


def sees(block: Attention | LatentAttention) -> str:
    """The tokens that an attention layer can attend to, in words."""
    from ordito.spec import LatentAttention

    if isinstance(block, LatentAttention):
        return f"all tokens through latents of {block.kv_rank}"
    if block.cross:
        return "the source"
    if block.chunk:
        return f"chunks of {block.chunk:,}"
    if block.block_sparse:
        return f"blocks of {block.block_sparse.block}: {block.block_sparse.local} newest, every {block.block_sparse.stride}th"
    both = "" if block.causal else ", both sides"
    return f"window {block.window:,}{both}" if block.window else f"all tokens{both}"


def experts(spec: Spec) -> list[dict[str, Any]]:
    """The kinds of mixture-of-experts layers, each with the number of its layers."""
    from ordito.spec import FeedForward, MixtureOfExperts

    kinds = Counter(
        leaf for path, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts) and not path.startswith("ahead.")
    )
    return [
        {
            "layers": n,
            "experts": mixture.router.n_experts,
            "chosen": mixture.router.top_k,
            "width": mixture.expert.d_ff if isinstance(mixture.expert, FeedForward) else None,
            "shared_width": mixture.shared.d_ff if mixture.shared else None,
        }
        for mixture, n in kinds.items()
    ]


def lines(d: dict[str, Any]) -> list[str]:
    """A description as lines of text."""
    active = f", {d['active_parameters']:,} active" if d["active_parameters"] != d["parameters"] else ""
    stored = ", ".join(f"{encoding} {share:.1%}" for encoding, share in d["quantization"].items() if share >= 0.0005)
    rows = {
        "name": d["name"],
        "family": f"{d['family']} ({d['architecture']})",
        "parameters": f"{d['parameters']:,}{active}",
        "stored as": f"{stored}; {size(d['bytes'])}" if d["bytes"] else "(no weights here)",
        "context": f"{d['context']:,} tokens",
        "vocabulary": f"{d['vocabulary']:,} tokens",
        "width": f"{d['d_model']:,}",
        "layers": f"{d['layers']}",
    }
    for i, kind in enumerate(d["attention"]):
        shared = kind["kv_heads"] not in (None, kind["heads"])
        heads = plural(kind["heads"], "head") + (f" on {plural(kind['kv_heads'], 'key-value head')}" if shared else "")
        scaling = f", {kind['rope_scaling']['node']}" if kind["rope_scaling"] else ""
        rope = f", rope theta {kind['rope_theta']:,.10g}{scaling}" if kind["rope_theta"] else ""
        rows["attention" if i == 0 else "attention " + "'" * i] = (
            f"{plural(kind['layers'], 'layer')}: {heads} of {kind['head_dim']}, {kind['sees']}{rope}"
        )
    for i, kind in enumerate(d["experts"]):
        wide = f" of {kind['width']:,}" if kind["width"] else ""
        always = f", and a shared one of {kind['shared_width']:,}" if kind["shared_width"] else ""
        rows["experts" if i == 0 else "experts " + "'" * i] = (
            f"{plural(kind['layers'], 'layer')}: {kind['chosen']} of {kind['experts']}{wide}{always}"
        )
    if d["kv_bytes_per_token"]:
        rows["cache"] = f"{d['kv_bytes_per_token']:,} bytes a token at 16 bits"
    if d["pooling"]:
        rows["embedding"] = f"{d['pooling']['kind']}{', normalised' if d['pooling'].get('normalise') else ''}"
    if d["end_tokens"]:
        rows["end tokens"] = " ".join(d["end_tokens"])
    rows["chat"] = "has a template" if d["chat_template"] else "no template of its own"
    rows["licence"] = d["licence"] or "not stated in the files"
    rows["path"] = d["path"]
    width = max(len(key) for key in rows if not key.endswith("'"))
    return [f"{'' if key.endswith(chr(39)) else key:{width}}  {value}" for key, value in rows.items()]
