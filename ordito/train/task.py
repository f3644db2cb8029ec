"""A training task: how records become examples, and the objective on them. One file for each in `ordito.train.tasks`."""

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
"""One record of a data set: a JSON line, a Parquet row, or {"text": ...} of a text file."""


@dataclass(frozen=True)
class Context:
    """What a task is built from: the run's configuration, the model, its tokenizer and its chat template."""

    config: Config
    module: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None

    @property
    def length(self) -> int:
        """Tokens of a text, at most."""
        return self.module.fitting(self.config.length)


@dataclass(frozen=True)
class Predictor:
    """How a trained task predicts: `read` makes an example of a record, whose label is ignored; `probabilities` runs a batch.

    The latter gives one tensor per example: over `classes` or, where these are empty, over the example's choices; with
    `regression` the score alone, (1,).
    """

    read: Callable[[Record], Example]
    probabilities: Callable[[Forward], Sequence[Tensor]]
    classes: tuple[str, ...] = ()
    regression: bool = False


@dataclass(frozen=True)
class Task:
    """What a run trains on.

    - `read` makes an example of a record, or raises `OrditoError` with what is wrong with it, in a clause.
    - `objective` is minimised; `metrics` are measured in evaluations only, without gradient.
    - `packs`: several examples may be packed into a row. `splits`: a text that is too long is split, not truncated.
      `chats`: it trains on conversations. `whole`: an optimizer step is one batch (contrastive losses need all of it).
    - `heads` are modules that are trained and saved with the transformer; `predictor` makes predictions with them.
    - `after_step` runs after each optimizer step.
    - `settings` are those that were given, completed by what was found in the data (classes, say); the run saves them.
    - `prompts` are words before the texts of a task by its name, as sentence-transformers names them; saved with the model.
    - `rewrite(examples, step)` replaces the examples of an optimizer step (counted from 0) before they are batched: by what the
      student generates in on-policy distillation.
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
    prompts: Mapping[str, str] = field(default_factory=dict)
    rewrite: Callable[[Sequence[Example], int], Sequence[Example]] | None = None
    predictor: Predictor | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of task by name: the class of its settings, and how it is built from them."""

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
