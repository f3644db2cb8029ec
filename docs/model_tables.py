"""docs/models.md and a page for each family: tables, in which every size is computed, charts and drawings."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

from ordito import catalogue
from ordito.accounting import count
from ordito.catalogue import Entry
from ordito.drawing import draw
from ordito.errors import OrditoWarning
from ordito.families import spec_from_config
from ordito.spec import Attention, FeedForward, LatentAttention, MixtureOfExperts, Spec
from ordito.units import short

COLUMNS = {
    "model": "---",
    "released": "---",
    "layers": "--:",
    "`d_model`": "--:",
    "heads / key-value heads / head size": "---",
    "feed-forward": "--:",
    "experts": "---",
    "vocabulary": "--:",
    "context": "--:",
    "windows": "---",
    "parameters": "--:",
    "active": "--:",
    "KV cache bytes per token (beyond windows)": "--:",
    "published": "---",
}
CLOSED_COLUMNS = {"model": "---", "name at the provider": "---", "released": "---", "context": "--:", "reads": "---"}

INTRODUCTION = """\
# Models

<!-- Written by docs/generate.py; do not edit. -->

Published models with their sizes, computed from the configuration of each in [ordito/catalogue](../ordito/catalogue/models). In
Python, `ordito.catalogue.find("Mixtral 8x7B v0.1")` is the entry of a model. The columns:

- **layers**: encoder + decoder where there are both.
- **feed-forward**: width of the dense ones. **experts**: chosen per token of all × width of one, + width of the shared ones.
- **context**: the context length in tokens. **windows**: tokens of a sliding window, and on how many layers.
- **parameters**: all, a tied head counted once. **active**: those used for one token, without the experts that are not chosen.
- **KV cache**: bytes per token over all layers, at 16 bits; in parentheses what a token still adds beyond every window.
- **published**: the publisher's figures, total and active. One marked * is explained below its table."""


DRAWN = {
    "bert": ["BERT base uncased", "XLM-RoBERTa base", "ModernBERT base"],
    "deepseek": ["DeepSeek LLM 7B", "DeepSeek-V2", "DeepSeek-V3"],
    "gemma": ["Gemma 7B", "Gemma 2 27B", "Gemma 3 27B"],
    "gpt": ["GPT-1", "GPT-2 XL", "GPT-3 175B", "gpt-oss-120b"],
    "italian": ["Minerva 7B base"],
    "llama": ["LLaMA 7B", "Llama 3.1 8B", "Llama 4 Scout 17B-16E", "Llama 4 Maverick 17B-128E"],
    "mistral": ["Mistral 7B v0.1", "Mixtral 8x7B v0.1", "Ministral 3 8B"],
    "phi": ["Phi-2", "Phi-3-mini 4k", "Phi-3-small 8k", "Phi-3.5-MoE"],
    "qwen": ["Qwen 7B", "Qwen2.5 7B", "Qwen1.5-MoE-A2.7B", "Qwen3 8B", "Qwen3 30B-A3B"],
    "smollm": ["SmolLM2 135M"],
    "t5": ["T5 small", "Switch base 8"],
}
"""The models of each family that are drawn: one per architecture."""

CHARTS = {
    "timeline.svg": "Releases by family",
    "parameters.svg": "Parameters by date of release",
    "cache.svg": "KV cache bytes per token by context length",
    "active.svg": "Active parameters by total parameters",
}


def models_page() -> str:
    """docs/models.md: the columns explained, links to the families, charts."""
    pages = [
        f"| [{title}](models/{family}.md) | {sum(e.family == family for e in catalogue.models())} |"
        for family, title in catalogue.titles().items()
    ]
    charts = [f"![{title}](charts/{name})" for name, title in CHARTS.items()]
    return "\n\n".join([INTRODUCTION, "\n".join(["| family | models |", "| --- | --: |", *pages]), *charts]) + "\n"


def family_page(family: str) -> str:
    """The page of one family: its table and its drawings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrditoWarning)
        table = section(family, catalogue.titles()[family])
    drawings = [f"![{name}]({file})" for name, file in drawn(family)]
    marks = "<!-- Written by docs/generate.py; do not edit. -->"
    legend = "The columns are explained in [Models](../models.md)."
    title, rest = table.split("\n\n", 1)
    return "\n\n".join([title.replace("## ", "# "), marks, legend, rest, *drawings]) + "\n"


def drawn(family: str) -> list[tuple[str, str]]:
    """(model, file name of its drawing) for each model of a family that is drawn."""
    return [(name, re.sub(r"[^a-z0-9.]+", "-", name.casefold()) + ".svg") for name in DRAWN.get(family, [])]


def drawing(name: str) -> str:
    """The picture of a published model."""
    entry = catalogue.find(name)
    assert entry.config is not None, "a closed model cannot be drawn"
    return draw(spec_from_config(entry.config, entry.name), titles=[entry.name]).svg()


def section(family: str, title: str) -> str:
    """One family: its open models, one row per shape, then its closed ones."""
    entries = [entry for entry in catalogue.models() if entry.family == family]
    shapes: dict[int, list[Entry]] = {}
    for entry in entries:
        if not entry.closed:
            shapes.setdefault(id(entry.config), []).append(entry)
    parts = [f"## {title}", f"From {entries[0].publisher}."]
    if shapes:
        parts.append(table(COLUMNS, (row(alike) for alike in shapes.values())))
    notes: dict[str, list[str]] = {}
    for entry in entries:
        if text := remarks(entry):
            notes.setdefault(text, []).append(entry.name)
    if notes:
        parts.append("\n".join(f"- {', '.join(names)}: {text}." for text, names in notes.items()))
    if closed := [entry for entry in entries if entry.closed]:
        parts.append("Closed models: only through the provider, sizes not published.")
        parts.append(table(CLOSED_COLUMNS, (closed_row(entry) for entry in closed)))
    return "\n\n".join(parts)


def table(columns: dict[str, str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; `columns` are titles and alignments."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(columns), list(columns.values()), *rows))


def row(alike: Sequence[Entry]) -> list[str]:
    """The cells of models of one shape."""
    first = alike[0]
    assert first.config is not None, "a closed model has no shape"
    spec = spec_from_config(first.config, first.name)
    size = count(spec)
    cache = f"{size.kv_bytes_per_token:,}" if size.kv_bytes_per_token else ""
    if size.kv_bytes_growing != size.kv_bytes_per_token:
        cache += f" ({size.kv_bytes_growing:,})"
    return [
        "<br>".join(f"[{e.name}](https://huggingface.co/{e.id})" if e.id else e.name for e in alike),
        "<br>".join(e.released for e in alike),
        layers(spec),
        f"{spec.d_model:,}",
        heads(spec),
        ", ".join(f"{width:,}" for width in widths(spec)),
        experts(spec),
        f"{spec.vocab_size:,}",
        f"{spec.context:,}",
        windows(spec),
        f"{size.parameters:,} ({short(size.parameters)})",
        short(size.active_parameters) if size.active_parameters != size.parameters else "",
        cache,
        "<br>".join(dict.fromkeys(filter(None, map(published, alike)))),
    ]


def closed_row(entry: Entry) -> list[str]:
    """The cells of a model without a configuration."""
    context = f"{entry.context:,}" if entry.context else ""
    return [entry.name, f"`{entry.id}`", entry.released, context, ", ".join(entry.modalities)]


def attentions(spec: Spec) -> list[tuple[str, Attention | LatentAttention]]:
    """(path, block) of each layer's self-attention; modules for multi-token prediction (`ahead.`) do not count as layers."""
    every = [(path, leaf) for path, leaf in spec.leaves() if isinstance(leaf, (Attention, LatentAttention))]
    return [(path, leaf) for path, leaf in every if not (path.startswith("ahead.") or getattr(leaf, "cross", False))]


def layers(spec: Spec) -> str:
    """Layers of each stack."""
    stacks = Counter(path.split(".")[0] for path, _ in attentions(spec))
    return " + ".join(str(number) for _, number in sorted(stacks.items()))


def heads(spec: Spec) -> str:
    """Query heads, key-value heads and head size."""
    block = attentions(spec)[0][1]
    if isinstance(block, LatentAttention):
        return f"{block.n_heads} / latent of {block.kv_rank} / {block.nope_dim} + {block.rope.dim}"
    return f"{block.n_heads} / {block.n_kv_heads} / {block.head_dim}"


def widths(spec: Spec) -> list[int]:
    """Widths of the dense feed-forwards."""
    return sorted({block.d_ff for _, block in spec.leaves() if isinstance(block, FeedForward)})


def experts(spec: Spec) -> str:
    """Experts per token, experts and their widths, and on how many layers if not on all."""
    mixtures = [block for path, block in spec.leaves() if isinstance(block, MixtureOfExperts) and not path.startswith("ahead.")]
    if not mixtures:
        return ""
    block = mixtures[0]
    assert isinstance(block.expert, FeedForward), "no published model nests its mixtures"
    text = f"{block.router.top_k} of {block.router.n_experts:,} × {block.expert.d_ff:,}"
    if block.shared:
        text += f" + {block.shared.d_ff:,}"
    return text + on_layers(len(mixtures), spec)


def windows(spec: Spec) -> str:
    """The attention windows of the layers, and on how many layers each is."""
    kinds = Counter(kind for _, block in attentions(spec) if isinstance(block, Attention) and (kind := window(block)))
    return ", ".join(kind + on_layers(number, spec) for kind, number in kinds.items())


def window(block: Attention) -> str:
    """The attention window of one layer; empty for full attention."""
    if block.block_sparse:
        return f"{block.block_sparse.local * block.block_sparse.block:,} and every {block.block_sparse.stride}th block"
    if block.chunk:
        return f"chunks of {block.chunk:,}"
    if block.window:
        return f"{block.window:,}" if block.causal else f"±{block.window - 1:,}"
    return ""


def on_layers(number: int, spec: Spec) -> str:
    """The clause "on number of total" layers; empty for all of them."""
    total = len(attentions(spec))
    return "" if number == total else f" on {number} of {total}"


def published(entry: Entry) -> str:
    """The publisher's figures, marked * if the total differs from the computed one."""
    figures = [figure for figure in (entry.published_parameters, entry.published_active) if figure]
    return " / ".join(figures) + ("*" if entry.differs else "")


def remarks(entry: Entry) -> str:
    """The notes of an entry, among them why the publisher's total differs."""
    others = [f"the publisher's total also counts {number:,} of its {what}" for what, number in entry.counts_also.items()]
    difference = [f"{entry.published_parameters}*: {entry.differs}"] if entry.differs else []
    return "; ".join([*filter(None, [entry.note]), *others, *difference])
