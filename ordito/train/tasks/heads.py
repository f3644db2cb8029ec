"""GPT-1's tasks: a head on top, with language modelling as an auxiliary objective (Radford et al. 2018, sections 3.2, 3.3).

L3 = L2 + lambda L1: the mean loss of the head over examples, and lambda times the mean language-model loss over texts. Inputs
have the formats of `ordito.train.labelled`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, nn

from ordito.errors import OrditoError
from ordito.train.data.records import read_records
from ordito.train.examples import Example
from ordito.train.forward import Forward
from ordito.train.head import TextHead, scores_of_choices, scores_of_classes
from ordito.train.labelled import (
    Frame,
    Parts,
    a_pair,
    both_orders,
    choice_of,
    classes_of,
    each_choice,
    frame,
    label_of,
    one_text,
    score_of,
)
from ordito.train.losses import cross_entropy, squared_error
from ordito.train.objective import Objective, Term
from ordito.train.settings import Settings
from ordito.train.task import Context, Kind, Predictor, Record, Task
from ordito.train.terms import count_examples, language_model_by_text

HEAD = "task"
"""The name of the head among those of the task."""


class HeadSettings(Settings):
    """Settings of all tasks with a head."""

    lm_weight: float = Field(
        0.5, ge=0, description="lambda: weight of language modelling on the same texts; models that cannot generate do without."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of channels that the head loses in training.")
    start: str | None = Field(None, description="Token that begins a text; the tokenizer's own if not given.")
    extract: str | None = Field(
        None, description="Token that ends a text, where the head reads; the tokenizer's own if not given."
    )


class PairSettings(HeadSettings):
    """Settings of tasks on text pairs and choices."""

    delimiter: str | None = Field(None, description="Token between two texts; the tokenizer's own if not given.")


class ClassificationSettings(HeadSettings):
    """Settings of `classification`."""

    classes: tuple[str, ...] = Field((), description="The labels; found in the data if not given.")


class EntailmentSettings(PairSettings):
    """Settings of `entailment`."""

    classes: tuple[str, ...] = Field((), description="The labels; found in the data if not given.")


class SimilaritySettings(PairSettings):
    """Settings of `similarity`."""

    classes: tuple[str, ...] = Field(
        (), description="The labels, where they are classes (0,1 of paraphrases); a score if not given."
    )


class ChoiceSettings(PairSettings):
    """Settings of `choice`."""


@dataclass(frozen=True)
class _Format:
    """How a task gets texts and a label from a record, and scores and a loss from the head."""

    texts: Callable[[Record], Sequence[Parts]]
    label: Callable[[Record], float]
    scores: Callable[[TextHead, Forward], Tensor]
    n_scores: int
    loss: Callable[[Tensor, Tensor], Tensor] = lambda scores, labels: cross_entropy(scores, labels.long())
    classes: tuple[str, ...] = ()


def _classification(settings: ClassificationSettings, context: Context) -> Task:
    return _class_task("classification", one_text, settings, context)


def _entailment(settings: EntailmentSettings, context: Context) -> Task:
    return _class_task("entailment", a_pair, settings, context)


def _similarity(settings: SimilaritySettings, context: Context) -> Task:
    if settings.classes:
        return _class_task("similarity", both_orders, settings, context)
    format = _Format(both_orders, score_of, scores_of_classes, 1, lambda scores, labels: squared_error(scores[:, 0], labels))
    return _task("similarity", format, settings, context)


def _choice(settings: ChoiceSettings, context: Context) -> Task:
    return _task("choice", _Format(each_choice, choice_of, scores_of_choices, 1), settings, context)


def _class_task(
    name: str,
    texts: Callable[[Record], Sequence[Parts]],
    settings: ClassificationSettings | EntailmentSettings | SimilaritySettings,
    context: Context,
) -> Task:
    classes = settings.classes or classes_of(read_records(context.config.data, stream=context.config.stream))
    numbers = {label: float(number) for number, label in enumerate(classes)}

    def label(record: Record) -> float:
        named = label_of(record)
        if named not in numbers:
            raise OrditoError(f"has the label {named!r}, expected one of {', '.join(classes)[:200]}")
        return numbers[named]

    format = _Format(texts, label, scores_of_classes, len(classes), classes=classes)
    return _task(name, format, settings.model_copy(update={"classes": classes}), context)


def _task(name: str, format: _Format, settings: HeadSettings, context: Context) -> Task:
    module = context.module
    between = settings.delimiter if isinstance(settings, PairSettings) else None
    framed: Frame = frame(
        name,
        context.tokenizer,
        context.length,
        settings.start,
        between,
        settings.extract,
        pairs=isinstance(settings, PairSettings),
    )
    head = TextHead(module.spec.d_model, format.n_scores, dropout=settings.dropout, seed=context.config.seed)
    regression = format.label is score_of

    def unlabelled(record: Record) -> Example:
        return Example(tuple(framed.text(parts) for parts in format.texts(record)))

    def read(record: Record) -> Example:
        return Example(unlabelled(record).texts, format.label(record))

    def loss(forward: Forward) -> Tensor:
        return format.loss(format.scores(head, forward), forward.batch.labels_E)

    def correct(forward: Forward) -> Tensor:
        return (format.scores(head, forward).argmax(dim=-1) == forward.batch.labels_E).sum()

    def absolute_error(forward: Forward) -> Tensor:
        return (format.scores(head, forward)[:, 0] - forward.batch.labels_E).abs().sum()

    def probabilities(forward: Forward) -> Sequence[Tensor]:
        scores = format.scores(head, forward)
        if regression or format.classes:
            return list(scores if regression else scores.softmax(dim=-1))
        return [row[: len(example)].softmax(dim=-1) for row, example in zip(scores, forward.batch.places, strict=True)]

    objective = Objective.of(Term(name, loss, count_examples))
    if settings.lm_weight and module.spec.generates:
        objective = objective + settings.lm_weight * Objective.of(language_model_by_text())
    measured = ("absolute_error", absolute_error) if regression else ("accuracy", correct)
    metric = Term(measured[0], measured[1], count_examples)
    return Task(
        read,
        objective,
        heads=nn.ModuleDict({HEAD: head}),
        metrics=(metric,),
        settings=settings,
        predictor=Predictor(unlabelled, probabilities, format.classes, regression),
    )


KINDS = (
    Kind("classification", "a class for each text", ClassificationSettings, _classification),
    Kind("entailment", "a class for each pair of premise and hypothesis", EntailmentSettings, _entailment),
    Kind("similarity", "how alike two texts are, whichever comes first", SimilaritySettings, _similarity),
    Kind("choice", "the right one of several continuations", ChoiceSettings, _choice),
)
