"""The model in training: its transformer and tokenizer, how they are opened before a run and exported after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint, with_own_head
from ordito.checkpoint.export import write_prompts
from ordito.checkpoint.outline import outline
from ordito.checkpoint.pooling import prompts_from_folder
from ordito.checkpoint.safetensors import write_safetensors
from ordito.errors import ConfigError, OrditoError, TemplateError
from ordito.families import family_of, spec_from_config
from ordito.files import write_atomically
from ordito.nn.arrays import floats_of
from ordito.nn.feedforward import Router, StackedLinear
from ordito.nn.runtime import load_transformer
from ordito.nn.transformer import Head, Transformer
from ordito.saving import write
from ordito.spec import Spec
from ordito.text.chat import ChatTemplate
from ordito.text.from_checkpoint import load_tokenizer
from ordito.text.tokenizer import Tokenizer
from ordito.train.adapters import NAME, attach, load_nf4, merged
from ordito.train.adapters import write as write_adapters
from ordito.train.config import Config
from ordito.train.placement import shard_like
from ordito.train.vocabulary import Rows, extend, read_tokens

if TYPE_CHECKING:
    from ordito.nn.adapter import Adapters

HEADS = "heads.safetensors"


@dataclass(eq=False)
class Subject:
    """A model in training: its module, `adapters` of it, and `heads` on top of it.

    `origin` is the checkpoint that it was loaded from, and `base` the name of that; `chats` says whether it is trained on
    conversations, `merge` whether the export has the adapter merged into the weights. `prompts` are those of its task.
    """

    module: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None
    origin: Checkpoint
    base: str
    chats: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    merge: bool = False
    adapters: Adapters | None = None
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    @property
    def spec(self) -> Spec:
        """The model's spec."""
        return self.module.spec

    @property
    def talks(self) -> bool:
        """Whether it, or its base, is trained on conversations; a base model may have a prompt format that it never saw."""
        return self.chats or self.tokenizer.chat_template is not None

    def parameters(self) -> dict[str, nn.Parameter]:
        """All trainable parameters by name; those of an adapter have the prefix `adapter.`, those of heads `heads.`."""
        owners: dict[str, nn.Module] = {"": self.module, "heads.": self.heads}
        if self.adapters is not None:
            # Tensors that an adapter trains whole (`saved`) are also parameters of the module: they are listed once.
            owners = {"heads.": self.heads, "adapter.": self.adapters}
        return {
            prefix + name: parameter
            for prefix, owner in owners.items()
            for name, parameter in owner.named_parameters()
            if parameter.requires_grad
        }

    def matrices(self) -> frozenset[str]:
        """Names of the weights of linear maps, without head, embedding tables and routers."""
        kinds = (nn.Linear, StackedLinear)
        maps = ((name, module) for name, module in self.module.named_modules() if isinstance(module, kinds))
        return frozenset(f"{name}.weight" for name, module in maps if not isinstance(module, (Router, Head)))

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode (dropout) of all parts."""
        for part in (self.module, self.heads, self.adapters):
            if part is not None:
                part.train(mode)

    def compile(self) -> None:
        """`torch.compile` every layer by itself: equal layers are compiled once."""
        for part in self.module.modules():
            if isinstance(part, nn.ModuleList):
                for layer in part:
                    layer.compile()

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder, or its adapter as PEFT's, with the tokenizer, and heads in `HEADS`.

        Raises `OrditoError` if it cannot be written.
        """
        if self.adapters is not None and not self.merge:
            write_adapters(self.adapters, folder, self.spec, self.base)
            self.tokenizer.to_folder(folder)
        else:
            weights, spec = self._merged()
            write(folder, replace(self.origin, spec=spec), weights, self.tokenizer)
            if self.prompts:
                own, default = prompts_from_folder(folder)
                write_prompts(folder, {**own, **self.prompts}, default)
        if self.chats and self.template is not None and self.tokenizer.chat_template is None:
            # The base had no chat template; now the model is trained on this one.
            write_atomically(folder / "chat_template.jinja", [self.template.source.encode()])
        if len(self.heads):
            write_safetensors(folder / HEADS, {name: floats_of(tensor) for name, tensor in self.heads.state_dict().items()})

    def _merged(self) -> tuple[dict[str, np.ndarray], Spec]:
        """Every tensor of the model, fp32, with the adapter merged in, and their spec (whose head may be untied)."""
        if self.adapters is None:
            return {name: floats_of(tensor) for name, tensor in self.module.state_dict().items()}, self.spec
        tensors = merged(self.module, self.adapters)
        spec = with_own_head(self.spec) if "head.weight" in tensors and self.spec.tied else self.spec
        return {name: floats_of(tensor) for name, tensor in tensors.items()}, spec


def open_subject(config: Config) -> Subject:
    """The model of a run, with its trained weights or, from scratch, with random ones; adapters are attached.

    Raises as `ordito.load` does, and `OrditoError` for settings that contradict each other.
    """
    torch.manual_seed(config.seed)
    checkpoint, path = _scratch(config) if config.scratch else _trained(config)
    if checkpoint.spec.encoder is not None:
        raise OrditoError(f"{config.model}: is an encoder-decoder, and what trains here is a decoder or an encoder alone")
    tokenizer = _tokenizer(config, checkpoint, path)
    if config.scratch:
        checkpoint = _with_vocabulary(checkpoint, tokenizer, config)
        module = Transformer(checkpoint.spec)
    else:
        if tokenizer.vocab_size > checkpoint.spec.vocab_size and config.new_tokens is None:
            raise OrditoError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but {config.model} embeds {checkpoint.spec.vocab_size}: "
                "take the model's own tokenizer, or extend its vocabulary (new_tokens)"
            )
        module = load_nf4(checkpoint, config.lora) if config.adapter == "qlora" else load_transformer(checkpoint)
        checkpoint.let_go()
    subject = Subject(
        module, tokenizer, _template(tokenizer, checkpoint.spec, config), checkpoint, config.model, merge=config.lora.merge
    )
    if config.new_tokens is not None:
        _extend(subject, Path(config.new_tokens), config.new_rows)
    subject.module.recompute = config.recompute
    for parameter in subject.module.parameters():
        parameter.requires_grad_(True)
    if config.adapter != "none":
        subject.adapters = attach(subject.module, config.lora, config.adapter, config.seed)
        if config.new_tokens is not None and not config.lora.merge:
            _check_new_rows(subject.spec, subject.adapters.saved(NAME))
    return subject


def _trained(config: Config) -> tuple[Checkpoint, Path]:
    path = store.locate(config.model).path
    return open_checkpoint(path), path


def _scratch(config: Config) -> tuple[Checkpoint, Path]:
    """A checkpoint without tensors: the spec and metadata of a model that is trained from scratch."""
    known = outline(config.model, download=True)  # a shipped model's tokenizer is in its files
    path = known.path or Path(config.model)
    folder = path if path.is_dir() else path.parent
    kind = "gguf" if known.format == "gguf" else "huggingface"
    where = path if kind == "gguf" else folder
    return Checkpoint(where, (), kind, known.spec, known.metadata, {}, (), {}), where  # type: ignore[arg-type]


def _tokenizer(config: Config, checkpoint: Checkpoint, path: Path) -> Tokenizer:
    if config.tokenizer is None:
        return load_tokenizer(replace(checkpoint, path=path))
    named = store.locate(config.tokenizer).path if not Path(config.tokenizer).is_dir() else Path(config.tokenizer)
    if named.is_dir():
        return Tokenizer.from_folder(named)
    return Tokenizer.from_gguf(open_checkpoint(named).metadata)


def _with_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer, config: Config) -> Checkpoint:
    """The checkpoint with as many rows of the embedding as the tokenizer has tokens; one from GGUF as it is."""
    size = tokenizer.vocab_size
    if checkpoint.spec.vocab_size == size or checkpoint.format == "gguf":
        return checkpoint
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    metadata = {**checkpoint.metadata, "vocab_size": size, **ids}
    spec = spec_from_config({key: value for key, value in metadata.items() if value is not None}, config.model)
    return replace(checkpoint, spec=spec, metadata=metadata)


def _template(tokenizer: Tokenizer, spec: Spec, config: Config) -> ChatTemplate | None:
    try:
        return ChatTemplate.for_tokenizer(tokenizer, family_of(spec).prompts, config.prompt_format)
    except TemplateError:
        if config.prompt_format is not None:
            raise
        return None


def _extend(subject: Subject, file: Path, rows: Rows) -> None:
    extended = extend(subject.module, subject.tokenizer, read_tokens(file), rows)
    subject.module, subject.tokenizer = extended.module, extended.tokenizer
    subject.origin = replace(subject.origin, spec=extended.module.spec)


def _check_new_rows(spec: Spec, saved: Collection[str]) -> None:
    """Raise `ConfigError` if an adapter that holds `saved` leaves out rows of new tokens, which its base does not have."""
    head = None if spec.lm_head is None or spec.tied else spec.lm_head.name
    if not {f"{spec.embedding.name}.tokens.weight", *([f"{head}.weight"] if head else [])} <= set(saved):
        raise ConfigError(
            "new_tokens: the adapter would not hold the rows of the new tokens: train these too (lora.saved=embedding,head), "
            "or write a whole model (lora.merge=true)"
        )


def load_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Set parameters to the weights of a checkpoint. Raises `OrditoError` if their names differ."""
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise OrditoError(f"the checkpoint is of another model: {odd[0]} is in one of them only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(shard_like(weights[name], parameter))
