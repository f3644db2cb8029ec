"""What a family file gives: how published files of one architecture become a spec and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ordito.families.naming import Names
from ordito.families.reader import Reader
from ordito.spec import Shape, Spec


@dataclass(frozen=True)
class Header:
    """What is known of a GGUF file without its weights: metadata, shapes, and the few small tensors that hold settings.

    `shapes` are row-major. `values(name)` reads a one-dimensional tensor.
    """

    metadata: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    values: Callable[[str], Sequence[float]]

    @property
    def architecture(self) -> str:
        """The architecture's label, which is also the prefix of its metadata keys."""
        return str(self.metadata["general.architecture"])

    def reader(self) -> Reader:
        """The keys of the architecture itself, without their prefix."""
        prefix = self.architecture + "."
        keys = {k.removeprefix(prefix): v for k, v in self.metadata.items() if k.startswith(prefix)}
        return Reader(keys, f"GGUF metadata of {self.architecture}")


@dataclass(frozen=True)
class GGUF:
    """A family in GGUF files: the architecture labels, metadata both ways, and the names of tensors.

    `label` gives a spec's own label, where it is not the one in config.json; `layouts` are other names that files may have.
    """

    architectures: tuple[str, ...]
    spec_from_header: Callable[[Header], Spec]
    metadata_from_spec: Callable[[Spec], dict[str, Any]]
    names: Callable[[Spec], Names]
    label: Callable[[Spec], str] = lambda spec: spec.architecture
    layouts: Callable[[Spec], tuple[Names, ...]] = lambda spec: ()


FUSIONS: dict[tuple[str, ...], str] = {
    tuple(f"layers.{{}}.attention.{part}" for part in "qkv"): "blk.{}.attn_qkv",
    ("layers.{}.mlp.experts.gate", "layers.{}.mlp.experts.up"): "blk.{}.ffn_gate_up_exps",
}
"""Tensors that llama.cpp's converter fuses in any architecture if it is asked to."""


SETTINGS = {r"rope_(freqs|factors_(long|short))\.weight": "the spec holds the scaling that it gives"}
"""Tensors of any architecture that are settings."""


def with_fusions(names: Names, present: Collection[str]) -> Names:
    """The names as they are in a GGUF file that has the names `present`: with its fusions, and the settings left out."""
    table = dict(names.table)
    for parts, theirs in FUSIONS.items():
        ending = theirs.partition("{}")[2] + ".weight"
        if all(part in table for part in parts) and any(name.endswith(ending) for name in present):
            table = {key: value for key, value in table.items() if key not in parts} | {parts: theirs}
    return replace(names, table=table, ignored={**names.ignored, **SETTINGS})


@dataclass(frozen=True)
class Family:
    """One family: everything that the rest of Ordito needs to know about its published files.

    `members` names the published models, `model_types` the values of `model_type` in config.json.
    `spec_from_config(reader)` reads a whole config.json; `config_from_spec` writes one that gives an equal spec. `prompts`
    are the family's prompt formats (`text.formats`), for checkpoints that bring no template: the first whose markers stand
    in the vocabulary is the one.
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
