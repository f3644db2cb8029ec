"""What a family file gives: how published files of one architecture become a spec and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
