"""What a family file defines: how the published files of one architecture become a spec and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ordito.families.naming import QKV, Names
from ordito.families.reader import Reader
from ordito.spec import Shape, Spec


@dataclass(frozen=True)
class Header:
    """A GGUF file without its weights: `metadata`, the row-major `shapes` of its tensors, and `values(name)`, which reads
    one of the small one-dimensional tensors that hold settings (`rope_freqs`)."""

    metadata: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    values: Callable[[str], Sequence[float]]

    @property
    def architecture(self) -> str:
        """`general.architecture`, which is also the prefix of the architecture's metadata keys."""
        return str(self.metadata["general.architecture"])

    def reader(self) -> Reader:
        """A `Reader` of the architecture's own keys, without their prefix."""
        prefix = self.architecture + "."
        own = {k.removeprefix(prefix): v for k, v in self.metadata.items() if k.startswith(prefix)}
        # Lists instead of numpy's arrays, whose comparisons have no truth value.
        keys = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in own.items()}
        return Reader(keys, f"GGUF metadata of {self.architecture}")


@dataclass(frozen=True)
class GGUF:
    """A family in GGUF files: its values of `general.architecture`, metadata in both directions, and the names of tensors.

    `label(spec)` is the value of `general.architecture` for a spec, by default `spec.architecture`; `layouts` are further
    tables of names that files in circulation have. `caveat(spec)` says why llama.cpp refuses a file, or computes otherwise from
    it, that is read back to an equal spec here, if it does.
    """

    architectures: tuple[str, ...]
    spec_from_header: Callable[[Header], Spec]
    metadata_from_spec: Callable[[Spec], dict[str, Any]]
    names: Callable[[Spec], Names]
    label: Callable[[Spec], str] = lambda spec: spec.architecture
    layouts: Callable[[Spec], tuple[Names, ...]] = lambda spec: ()
    caveat: Callable[[Spec], str | None] = lambda spec: None


FUSIONS: dict[tuple[str, ...], str] = {
    QKV: "blk.{}.attn_qkv",
    ("layers.{}.mlp.experts.gate", "layers.{}.mlp.experts.up"): "blk.{}.ffn_gate_up_exps",
}
"""Tensors that llama.cpp's converter can fuse in any architecture (an option of it)."""


SETTINGS = {r"rope_(freqs|factors_(long|short))\.weight": "the spec holds the rope scaling that it gives"}
"""Tensors that any architecture may have and that hold settings, not weights."""


def with_fusions(names: Names, present: Collection[str]) -> Names:
    """The names for a GGUF file with the tensors `present`: with the `FUSIONS` found there, and `SETTINGS` ignored."""
    table = dict(names.table)
    for parts, theirs in FUSIONS.items():
        ending = theirs.partition("{}")[2] + ".weight"
        if all(part in table for part in parts) and any(name.endswith(ending) for name in present):
            table = {key: value for key, value in table.items() if key not in parts} | {parts: theirs}
    return replace(names, table=table, ignored={**names.ignored, **SETTINGS})


@dataclass(frozen=True)
class Family:
    """One family: everything that the rest of Ordito needs to know about its published files.

    - `name` is that of its file, `title` and `members` (the published models) are for readers.
    - `model_types` are its values of `model_type` in config.json.
    - `spec_from_config(reader)` reads a whole config.json; `config_from_spec` writes one that is read back to an equal spec.
    - `names(spec)` is the table of tensor names in Hugging Face's layout; `layouts(spec)` are further ones in circulation.
    - `prompts` are its prompt formats (`text.formats`), for checkpoints without a chat template: the first one whose special
      tokens are all in the vocabulary is used.
    """

    name: str
    title: str
    members: str
    model_types: tuple[str, ...]
    spec_from_config: Callable[[Reader], Spec]
    config_from_spec: Callable[[Spec], dict[str, Any]]
    names: Callable[[Spec], Names]
    gguf: GGUF | None = None
    prompts: tuple[str, ...] = ()
    layouts: Callable[[Spec], tuple[Names, ...]] = lambda spec: ()
