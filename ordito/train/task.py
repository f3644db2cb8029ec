"""A task: how records become examples, and what is minimised on them. One file a task in `ordito.train.tasks`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ordito.errors import OrditoError, unknown
from ordito.nn.transformer import Transformer
from ordito.train.examples import Example
from ordito.train.forward import Forward
from ordito.train.objective import Objective, Term

if TYPE_CHECKING:
    from ordito.text.chat import ChatTemplate
    from ordito.text.tokenizer import Tokenizer
    from ordito.train.config import Config

Record = Mapping[str, Any]
"""One thing to learn from as its file has it: a line of JSON, a row of Parquet, or {"text": ...}."""


@dataclass(frozen=True)
class Context:
    """What a task is built from: the run's configuration, the model, and how it reads and writes."""

    config: Config
    module: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None


@dataclass(frozen=True)
class Predictor:
    """How a trained task answers: `read` makes an example of a record without its label; `probabilities` of a batch.

    They are one tensor an example, over `classes` or, where these are empty, over the example's choices; of a `regression` the
    score alone, (1,).
    """

    read: Callable[[Record], Example]
    probabilities: Callable[[Forward], Sequence[Tensor]]
    classes: tuple[str, ...] = ()
    regression: bool = False


@dataclass(frozen=True)
class Task:
    """`read` makes an example of a record, or raises `OrditoError` (what is wrong with it, in a clause).

    `packs`: several examples may share a row. `splits`: a text that is too long is learned in pieces. `chats`:
    conversations are what it is about. `whole`: all examples of an optimizer step must meet in one batch (contrast).
    `heads` are modules beside the transformer that are trained with it and kept with it. `after_step` runs when the
    optimizer has moved. `metrics` are measured in evaluations beside the objective, without gradient. `settings` are those of
    the kind with what was found out filled in (classes, say): what the run keeps in the place of those that were given.
    `rewrite` gives other examples for those of the optimizer step of a number (0-based), before they become a batch: what a
    student writes itself. `predictor` is how answers are read off the heads.
    """

    read: Callable[[Record], Example]
    objective: Objective
    packs: bool = False
    splits: bool = False
    chats: bool = False
    whole: bool = False
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    after_step: Callable[[], None] | None = None
    metrics: tuple[Term, ...] = ()
    settings: Any = None
    rewrite: Callable[[Sequence[Example], int], Sequence[Example]] | None = None
    predictor: Predictor | None = None


@dataclass(frozen=True)
class Kind:
    """A task by name: its settings (a frozen dataclass with defaults), and how it is built from them."""

    name: str
    summary: str
    settings: type
    build: Callable[[Any, Context], Task]


@cache
def kinds() -> dict[str, Kind]:
    """Every task by name: the `KINDS` of each module of `ordito.train.tasks`."""
    package = importlib.import_module("ordito.train.tasks")
    modules = [importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    return {kind.name: kind for module in modules for kind in module.KINDS}


def kind_named(name: str) -> Kind:
    """The task of a name. Raises `OrditoError` if there is none."""
    known = kinds()
    if name not in known:
        raise OrditoError(unknown("objective", name, known))
    return known[name]
