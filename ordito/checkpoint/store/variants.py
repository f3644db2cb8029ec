"""Which files of a folder or a repository belong to one model, decided by their names and sizes only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ordito.errors import ModelNotFoundError, did_you_mean

# Good quality for their size and widely readable, best first. If there is none of them, the smallest file is chosen.
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S")

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_TAG = re.compile(
    r"(?:^|[-._/])(?P<tag>(?:UD-)?I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)(?=$|[-._/])",
    re.IGNORECASE,
)
_NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_PICKLED = re.compile(r".+\.(bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_MODULE = re.compile(r"\d+_\w+/")  # the folders of sentence-transformers: 1_Pooling, 2_Dense
_BESIDE = re.compile(
    r"config\.json|generation_config\.json|params\.json|.*tokenizer.*\.(json|model(\.v\d+\w*)?)|tekken\.json|vocab\.(json|txt)"
    r"|qwen\.tiktoken|merges\.txt|(spiece|sentencepiece.*)\.model|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|(pre)?processor_config\.json|modules\.json|sentence_.*config\.json|config_sentence_transformers\.json"
    r"|model\.safetensors\.index\.json|adapter_config\.json"
)
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TERMS = re.compile(r"(README\.md|(LICEN[SC]E|NOTICE|USE_POLICY)[^/]*)", re.IGNORECASE)
_VOCABULARY = re.compile(
    r".*tokenizer.*\.(json|model(\.v\d+\w*)?)|tekken\.json|qwen\.tiktoken|vocab\.(json|txt)|(spiece|sentencepiece.*)\.model"
)


@dataclass(frozen=True, slots=True)
class GgufSet:
    """One GGUF model: a file, or the parts of a split one."""

    tag: str | None
    """Its quantization by the file's name, in upper case: Q4_K_M, F16."""
    files: tuple[str, ...]
    size: int
    parts: int = 1

    @property
    def main(self) -> str:
        """The file that a reader opens."""
        return self.files[0]

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        return len(self.files) == self.parts

    @property
    def called(self) -> str:
        """The name by which a user selects it."""
        return self.tag or self.main


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of the chosen model, and the alternatives."""

    main: str
    """A .gguf file, or `.` for the folder."""
    files: tuple[str, ...]
    """The weights, and what is needed to use them."""
    tag: str | None = None
    others: tuple[str, ...] = ()


def quant_tag(name: str) -> str | None:
    """The quantization in a file's name or its folder's; the last match, since names of models may contain such words.

    >>> quant_tag("Qwen3-0.6B-Q4_K_M.gguf"), quant_tag("UD-Q2_K_XL/big-00001-of-00002.gguf"), quant_tag("plain.gguf")
    ('Q4_K_M', 'UD-Q2_K_XL', None)
    """
    stem = split["stem"] if (split := _SPLIT.fullmatch(name)) else name.rpartition(".")[0]
    found = _TAG.findall(stem)
    return _same_tag(found[-1]) if found else None


def _same_tag(tag: str) -> str:
    """The tag in upper case, with FP16 and FP32 written as F16 and F32."""
    return re.sub(r"^FP(16|32)$", r"F\1", tag.upper())


def gguf_sets(files: Mapping[str, int]) -> list[GgufSet]:
    """The GGUF models among the files, without projectors and importance matrices."""
    grouped: dict[str, list[str]] = {}
    parts: dict[str, int] = {}
    for name in sorted(files):
        if not name.casefold().endswith(".gguf") or _NOT_A_MODEL.search(name):
            continue
        split = _SPLIT.fullmatch(name)
        key = f"{split['stem']} in {int(split['count'])}" if split else name
        grouped.setdefault(key, []).append(name)
        parts[key] = int(split["count"]) if split else 1
    return [
        GgufSet(quant_tag(names[0]), tuple(names), sum(files[name] for name in names), parts[key])
        for key, names in grouped.items()
    ]


def safetensors_weights(files: Iterable[str]) -> list[str]:
    """The weights of the model, without further copies of them (consolidated, fp16, ONNX)."""
    top = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name and name != _ADAPTER_WEIGHTS)
    if "model.safetensors" in top:
        return ["model.safetensors"]
    return [name for name in top if _SHARD.fullmatch(name)] or top


def configured(files: Iterable[str]) -> bool:
    """Whether there is a configuration: Hugging Face's or Mistral's."""
    return not {"config.json", "params.json"}.isdisjoint(files)


def is_adapter(files: Iterable[str]) -> bool:
    """Whether the files are those of a LoRA adapter, and no model's."""
    return _ADAPTER in (names := set(files)) and not safetensors_weights(names)


def choose(files: Mapping[str, int], repo: str, quant: str | None = None) -> Choice:
    """The model of a repository: GGUF if there is any or `quant` is given, else config.json and safetensors.

    Raises `ModelNotFoundError` if there is none, or several of that quantization.
    """
    sets = [one for one in gguf_sets(files) if one.complete]
    terms = tuple(name for name in sorted(files) if _TERMS.fullmatch(name))
    if sets or quant:
        chosen = _select(sets, repo, quant)
        others = tuple(one.called for one in sets if one is not chosen)
        return Choice(chosen.main, chosen.files + terms, chosen.tag, others)
    weights = [_ADAPTER_WEIGHTS] if (adapter := is_adapter(files)) and _ADAPTER_WEIGHTS in files else safetensors_weights(files)
    if weights and (adapter or configured(files)):
        wanted = {*weights, *terms}
        for name in files:
            within = _MODULE.match(name)
            inner = name[within.end() :] if within else name
            if _BESIDE.fullmatch(inner) or (within and inner == "model.safetensors"):
                wanted.add(name)
        return Choice(".", tuple(sorted(wanted)))
    if pickled := pickles(files):
        raise ModelNotFoundError(
            f"{repo} holds its weights only as pickles ({pickled[0]}), which are never loaded because unpickling runs "
            "code; convert them to safetensors, or choose a repository with safetensors or GGUF files"
        )
    found = "safetensors without a config.json" if weights else "no .gguf file and no safetensors"
    raise ModelNotFoundError(f"{repo} holds no model that can be read: {found}; choose another repository")


def _select(sets: list[GgufSet], repo: str, quant: str | None) -> GgufSet:
    names = sorted({one.called for one in sets})
    if quant is None:
        ranked = sorted(sets, key=lambda one: (_rank(one.tag), one.size))
        fitting = [one for one in ranked if one.tag and one.tag == ranked[0].tag] or ranked[:1]
    else:
        asked = quant.casefold()
        fitting = [one for one in sets if asked in {file.casefold() for file in one.files}]
        fitting = fitting or [one for one in sets if asked in {_base(file).casefold() for file in one.files}]
        fitting = fitting or [one for one in sets if one.tag == _same_tag(quant)]
    if not fitting:
        which = f"it has {', '.join(names)}{did_you_mean(str(quant).upper(), names)}" if names else "it has none at all"
        raise ModelNotFoundError(f"{repo} has no GGUF file of quantization {quant!r}; {which}")
    if len(fitting) > 1:
        listed = ", ".join(f"{repo}:{one.main}" for one in fitting)
        raise ModelNotFoundError(f"{repo} holds several {fitting[0].tag} files; name the one that you mean: {listed}")
    return fitting[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _rank(tag: str | None) -> int:
    if tag in PREFERRED:
        return PREFERRED.index(tag)
    return len(PREFERRED) + (0 if tag and tag.startswith("Q4") else 1)


def pickles(files: Iterable[str]) -> list[str]:
    """Files of pickled weights, pytorch_model* first."""
    found = [name for name in files if _PICKLED.fullmatch(name) and "/" not in name]
    return sorted(found, key=lambda name: (not name.startswith("pytorch_model"), name))


def has_vocabulary(files: Iterable[str]) -> bool:
    """Whether there are a tokenizer's files."""
    return any(_VOCABULARY.fullmatch(name) for name in files)
