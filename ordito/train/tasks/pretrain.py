"""Language modelling on plain text: pretraining from random weights, or continued from trained ones."""

from __future__ import annotations

from pydantic import Field

from ordito.errors import OrditoError
from ordito.train.data.formats import text_of
from ordito.train.examples import Example, Text
from ordito.train.objective import Objective
from ordito.train.settings import Settings
from ordito.train.task import Context, Kind, Record, Task
from ordito.train.terms import next_token


class PretrainSettings(Settings):
    """Settings of `pretrain`."""

    field: str = Field("text", description="The field of a record that holds its text.")


def build(settings: PretrainSettings, context: Context) -> Task:
    """Next-token prediction on all tokens of a text and its end token. Raises `OrditoError` for a model without a head."""
    tokenizer, spec = context.tokenizer, context.module.spec
    if not spec.generates:
        raise OrditoError(f"this {spec.architecture} model does not predict tokens: pretrain needs a decoder with a head")
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

    def read(record: Record) -> Example:
        try:
            text = text_of(record, settings.field)
        except OrditoError as error:
            raise OrditoError(f"{error} (pretrain.field names another)") from None
        ids = tokenizer.encode(text)
        return Example((Text.of(ids if ids[-1:] == end else ids + end),))

    return Task(read, Objective.of(next_token()), packs=True, splits=True)


KINDS = (Kind("pretrain", "language modelling on plain text, from random or trained weights", PretrainSettings, build),)
