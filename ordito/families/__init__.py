"""The families of models: one file each, which maps published configurations and tensor names to a spec and back.

A file of this folder with a module-level `FAMILY` is a family; there is no other registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from ordito.errors import ConfigError, did_you_mean
from ordito.families.family import GGUF, Family, Header, with_fusions
from ordito.families.naming import Names
from ordito.families.nearest import UnknownArchitectureError, nearest_of_config, nearest_of_header
from ordito.families.reader import Reader, shown
from ordito.families.rope import as_divisors, tensors_from_rope
from ordito.spec import Rope, Spec
from ordito.spec.node import from_dict

__all__ = [
    "Family",
    "Header",
    "UnknownArchitectureError",
    "config_from_spec",
    "families",
    "family_of",
    "gguf_of",
    "header_from_spec",
    "names_of",
    "spec_from_config",
    "spec_from_header",
    "with_fusions",
]


@cache
def families() -> tuple[Family, ...]:
    """Every family, by name: the `FAMILY` of each module of this package that has one."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return tuple(sorted((m.FAMILY for m in modules if hasattr(m, "FAMILY")), key=lambda family: family.name))


def family_of(spec: Spec) -> Family:
    """The family that publishes specs under the label `spec.architecture`. Raises `ConfigError` if there is none."""
    return _lookup({label: f for f in families() for label in f.model_types}, spec.architecture, "architecture")


def spec_from_config(config: Mapping[str, Any], where: str = "config.json") -> Spec:
    """The spec of a model from its config.json, given as a dict.

    Raises `ConfigError` for an unknown architecture, a missing key or a value of the wrong type or range; warns
    (`OrditoWarning`) of unknown keys.

    >>> spec_from_config({"model_type": "bert"}).d_model
    768
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: got {type(config).__name__}, expected an object of keys and values")
    reader = Reader(config, where)
    label = reader.text("model_type")
    known = {label: f for f in families() for label in f.model_types}
    if label not in known:
        raise UnknownArchitectureError(f"{where}: model_type", label, known, nearest_of_config(config, families()))
    return known[label].spec_from_config(reader)


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """A config.json that `spec_from_config` reads back to an equal spec.

    Raises `ConfigError` if the published format cannot express it.
    """
    config = family_of(spec).config_from_spec(spec)
    back = spec_from_config(config)
    if _shape(back) != _shape(spec):
        raise ConfigError(
            f"config.json of model_type {spec.architecture!r} cannot express this spec: keep it as JSON (Spec.to_json)"
        )
    return config


def _shape(spec: Spec) -> dict[str, Any]:
    """The spec as a dict, without what other files tell: `pooling` is in modules.json, and a `pooler` is among the tensors."""
    return {key: value for key, value in spec.to_dict().items() if key not in ("pooling", "pooler")}


def names_of(spec: Spec) -> tuple[Names, ...]:
    """The tables of tensor names in Hugging Face's layouts, the preferred one first.

    The dense layers of a pooling, which have files of their own, keep their canonical names.
    """
    family, dense = family_of(spec), spec.pooling.dense if spec.pooling else ()
    return tuple(
        replace(names, table={**names.table, **{f"{d.name}.{p}": names.usual(f"{d.name}.{p}") for d in dense for p in WEIGHTS}})
        for names in (family.names(spec), *family.layouts(spec))
    )


WEIGHTS = ("weight", "bias")
EMBEDDING = "token_embd.weight"
"""The tensor that every language model has in GGUF files."""


def spec_from_header(header: Header) -> Spec:
    """The spec of a model from a GGUF file's header. Raises `ConfigError` and warns as `spec_from_config` does."""
    label = header.metadata.get("general.architecture")
    if not isinstance(label, str):
        raise ConfigError(f"GGUF metadata: general.architecture is {label!r}, expected a string")
    by_label = {label: f for f in families() if f.gguf for label in f.gguf.architectures}
    if label not in by_label:
        near = nearest_of_header(header, families()) if len(header.shapes.get(EMBEDDING, ())) == 2 else None
        raise UnknownArchitectureError("GGUF metadata: general.architecture", label, by_label, near).with_tensors(header.shapes)
    family = by_label[label]
    if EMBEDDING not in header.shapes:
        raise ConfigError(f"GGUF file of {label}: there is no tensor {EMBEDDING}, expected a language model's weights")
    if len(shape := header.shapes[EMBEDDING]) != 2:
        raise ConfigError(f"GGUF file of {label}: {EMBEDDING} has shape {shape}, expected (vocabulary, width)")
    return gguf_of(family).spec_from_header(header)


def header_from_spec(spec: Spec) -> Header:
    """A GGUF header (metadata, tensor shapes, settings stored as tensors) that is read back to an equal spec.

    Raises `ConfigError` if GGUF does not know the architecture or cannot express the spec.
    """
    gguf = gguf_of(family_of(spec))
    label = gguf.label(spec)
    metadata = {f"{label}.{key}": value for key, value in gguf.metadata_from_spec(spec).items()}
    shapes = {name: binding.their_shape for binding in gguf.names(spec).bindings(spec) for name in binding.theirs}
    rope = next((leaf.rope for _, leaf in spec.attentions if leaf.rope is not None), None)
    settings = tensors_from_rope(rope) if rope else {}
    shapes |= {name: (len(values),) for name, values in settings.items()}
    same_label = {"architecture": label}  # one GGUF label may cover several families: `llama` is Mistral's too
    header = Header({"general.architecture": label, **metadata}, shapes, settings.__getitem__)
    if _comparable(_shape(spec_from_header(header))) | same_label != _comparable(_shape(spec)) | same_label:
        raise ConfigError(f"GGUF metadata of {label!r} cannot express this spec: save as safetensors instead")
    return header


def _comparable(value: Any) -> Any:
    """A spec's dict, with what GGUF stores in another form made alike: floats at 6 digits, which survive fp32 and the
    conversion of YaRN's attention factor, and the divisors that a rope's scaling gives."""
    if isinstance(value, dict):
        if value.get("node") == Rope.__name__:
            value = as_divisors(from_dict(value)).to_dict()
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def gguf_of(family: Family) -> GGUF:
    """The GGUF half of a family. Raises `ConfigError` if llama.cpp does not know the architecture."""
    if family.gguf is None:
        raise ConfigError(f"GGUF has no architecture for {family.title}; use safetensors instead")
    return family.gguf


def _lookup(known: Mapping[str, Family], label: str, where: str) -> Family:
    if label not in known:
        raise ConfigError(
            f"{where} is {shown(label)}, which no family here reads{did_you_mean(label, known)}"
            f" (known: {', '.join(sorted(known))})"
        )
    return known[label]
