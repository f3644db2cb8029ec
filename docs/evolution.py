"""docs/evolution.md: how the architecture of each family changed from one generation to the next."""

from __future__ import annotations

from ordito import catalogue, compare
from ordito.families import spec_from_config

LINES = {
    "GPT": ["GPT-1", "GPT-2 small", "GPT-3 175B", "gpt-oss-120b"],
    "LLaMA": ["LLaMA 7B", "Llama 2 7B", "Llama 3 8B", "Llama 3.1 8B", "Llama 4 Scout 17B-16E"],
    "Gemma": ["Gemma 7B", "Gemma 2 9B", "Gemma 3 12B"],
    "Mistral": ["Mistral 7B v0.1", "Mistral 7B v0.3", "Mistral Nemo 12B", "Mixtral 8x7B v0.1"],
    "Phi": ["Phi-1", "Phi-2", "Phi-3-mini 4k", "Phi-4"],
    "DeepSeek": ["DeepSeek LLM 7B", "DeepSeek-V2", "DeepSeek-V3"],
    "Qwen": ["Qwen 7B", "Qwen1.5 7B", "Qwen2 7B", "Qwen2.5 7B", "Qwen3 8B"],
    "Encoders": ["BERT base uncased", "XLM-RoBERTa base", "ModernBERT base"],
}
"""The generations of each family, in models of similar size."""

INTRODUCTION = """\
# What changed

<!-- Written by docs/generate.py; do not edit. -->

The differences between the generations of each family. `ordito compare` shows the same for any models, with what they have in
common. `3 × a, 58 × b` counts layers; `-` means that a model has no such part."""


def evolution_page() -> str:
    """The whole page."""
    return "\n\n".join([INTRODUCTION, *(section(title, names) for title, names in LINES.items())]) + "\n"


def section(title: str, names: list[str]) -> str:
    """One family: a column per generation."""
    entries = [catalogue.find(name) for name in names]
    specs = [spec_from_config(entry.config, entry.name) for entry in entries if entry.config]
    comparison = compare(*specs, names=tuple(f"{entry.name} ({entry.released[:4]})" for entry in entries))
    rows = ["| | | " + " | ".join(comparison.names) + " |", "| --- | --- |" + " --- |" * len(names)]
    last = None
    for row in comparison.differences:
        rows.append(f"| {row.section if row.section != last else ''} | {row.label} | {' | '.join(row.values)} |")
        last = row.section
    return f"## {title}\n\n" + "\n".join(rows)
