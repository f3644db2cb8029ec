"""Tracing one token through a model: every step with its formula and shape and, given weights and a text, its values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from ordito.errors import ContextError, OrditoError, OrditoWarning
from ordito.lens.step import Addition, Step, Where
from ordito.lens.steps import Section, sections
from ordito.spec import Head, Spec
from ordito.spec.fold import alike

if TYPE_CHECKING:
    from ordito.lens.numbers import Guess
    from ordito.lens.recording import Recording
    from ordito.model import Model
    from ordito.text.tokenizer import Tokenizer

GUESSES = 5
"""Number of predicted tokens in a trace."""


@dataclass(frozen=True)
class Token:
    """A token of the text."""

    id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The steps of one token through a model.

    `tokens` are those of the text and `position` is the index of the traced one, None without a text: then there are no
    numbers. Of an encoder-decoder they belong to the source; the decoder's traced token is its start token. `guesses` are the
    most probable next tokens, or, if attention is bidirectional (`generates` is False), those at this position.
    """

    spec: Spec
    sections: tuple[Section, ...]
    name: str
    tokens: tuple[Token, ...] = ()
    position: int | None = None
    guesses: tuple[Guess, ...] = ()

    @property
    def has_numbers(self) -> bool:
        """Whether the trace has values: it was made with weights and a text."""
        return self.position is not None

    def folded(self) -> list[tuple[Section, tuple[int, ...]]]:
        """The sections without values: equal layers of a stack once, with the indices of all of them."""
        kinds: dict[Any, tuple[Section, list[int]]] = {}
        for section in self.sections:
            key = (section.encoder, section.path if section.block is None else alike(section.block))
            numbers = kinds.setdefault(key, (section, []))[1]
            numbers += [] if section.layer is None else [section.layer]
        return [(section, tuple(numbers)) for section, numbers in kinds.values()]

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain JSON values with stable keys. Without values, equal layers occur once."""
        every = [(section, () if section.layer is None else (section.layer,)) for section in self.sections]
        return {
            "name": self.name,
            "architecture": self.spec.architecture,
            "tokens": [{"id": token.id, "text": token.text} for token in self.tokens],
            "position": self.position,
            "sections": [_plain(section, numbers) for section, numbers in (every if self.has_numbers else self.folded())],
            "guesses": [guess.to_dict() for guess in self.guesses],
        }

    def _repr_html_(self) -> str:
        """The text page as HTML, for notebooks."""
        from ordito.lens.page import lines

        return f"<pre>{escape(chr(10).join(lines(self)))}</pre>"


def trace(model: Model | Spec, text: str | None = None, *, token: int | None = None, name: str | None = None) -> Trace:
    """Trace one token of `text` through a model: the last one, or the one at position `token`, counted from 0.

    For encoders, the tokens that the tokenizer appends to every text ([SEP], </s>) do not count as the last. Values are those
    of an inference pass. Without a text, the trace has formulas and shapes only. A spec has no tokenizer: a text is then
    ignored, with an `OrditoWarning`. `name` is the model's name on the page.

    Raises `OrditoError` for an argument that is not a model, an empty text, a `token` out of range or NaN activations,
    `ContextError` for a text longer than the context, `MissingDependencyError` for a text without PyTorch.
    """
    if text == "":
        raise OrditoError("the text to follow is empty, expected at least one character")
    if token is not None and text is None:
        raise OrditoError(f"got token {token} and no text, expected the text that it is a token of")
    if isinstance(model, Spec):
        if text is not None:
            message = "no tokenizer and no weights are here, so the text is not read: formulas and shapes are shown"
            warnings.warn(message, OrditoWarning, stacklevel=2)
        return _formulas(model, name or model.architecture)
    if not hasattr(model, "checkpoint"):
        raise OrditoError(f"trace: got {type(model).__name__}, expected a model (ordito.load(name)) or its spec")
    name = name or model.checkpoint.path.name
    return _formulas(model.spec, name) if text is None else _traced(model, text, token, name)


def _formulas(spec: Spec, name: str) -> Trace:
    where = Where(caches=spec.generates)
    return Trace(spec=spec, sections=tuple(sections(spec, where)), name=name)


def _traced(model: Model, text: str, token: int | None, name: str) -> Trace:
    from ordito.engine.backends import check_settings

    check_settings("torch", None, None)
    from ordito.lens.numbers import best
    from ordito.lens.recording import record

    spec, tokenizer = model.spec, model.tokenizer
    ids = tokenizer.encode(text, parse_special=spec.generates)
    place = _place(ids, token, () if spec.generates and spec.encoder is None else tokenizer.special.suffix)
    if len(ids) > spec.context:
        raise ContextError(f"the text has {len(ids):,} tokens, but the model's context holds {spec.context:,}: shorten it")
    here = Where(position=place, length=len(ids), caches=spec.generates)
    if spec.encoder is None:
        recording = record(model, ids, positions=[place])
        found = sections(spec, here)
    else:
        recording = record(model, [model.start_id], ids)
        first = Where(position=0, length=1, caches=True)
        found = sections(spec, first, replace(here, caches=False))
    found = [_with_numbers(section, recording, place) for section in found]
    guesses: tuple[Guess, ...] = ()
    if spec.head is not None:
        path = next(path for path, leaf in spec.leaves() if isinstance(leaf, Head))
        logits_V = recording[path, "output"][0]
        guesses = tuple(_guess(tokenizer, id, share) for id, share in best(logits_V, GUESSES))
        found = _with_guesses(model, found, recording)
    if spec.pooling is not None:
        found[-1] = _with_embedding(model, found[-1], text)
    tokens = tuple(Token(id, token_text(tokenizer, id)) for id in ids)
    return Trace(spec=spec, sections=tuple(found), name=name, tokens=tokens, position=place, guesses=guesses)


def _place(ids: Sequence[int], token: int | None, suffix: Sequence[int]) -> int:
    """The position of the token to trace."""
    if not ids:
        raise OrditoError("the text has no tokens, expected at least one")
    if token is None:
        ends = len(suffix) if len(ids) > len(suffix) and list(ids[len(ids) - len(suffix) :]) == list(suffix) else 0
        return len(ids) - 1 - ends
    if not 0 <= token < len(ids):
        raise OrditoError(f"got token {token} of a text of {len(ids)} tokens, expected 0 to {len(ids) - 1}")
    return token


def _with_numbers(section: Section, recording: Recording, place: int) -> Section:
    """The section with the recorded values of each step. Of an encoder all tokens are recorded, else the traced one only."""
    values, row = (recording.source, place) if section.encoder else (recording, 0)
    assert values is not None, "an encoder's section without a recording of the encoder"
    return replace(section, steps=tuple(_numbered(step, values, row) for step in section.steps))


def _numbered(step: Step, recording: Recording, row: int) -> Step:
    import numpy as np

    from ordito.lens.numbers import Choice, Looks, Numbers, Sum, Vector

    if step.recorded is None or step.recorded not in recording:
        return step
    values, path = recording[step.recorded][row], step.recorded[0]
    # -inf is the logit of unused vocabulary rows; any other value that is not finite comes from damaged weights.
    if np.isnan(values).any() or np.isposinf(values).any():
        where = " ".join(step.recorded)
        raise OrditoError(f"the model gives no numbers from {where} on: its weights are damaged, take another copy of it")
    numbers: Numbers
    if isinstance(step, Addition):
        assert step.before is not None, "an addition without the place of the stream before it"
        numbers = Sum.after(recording[step.before][row], values)
    elif (path, "experts") in recording:
        numbers = Choice.of(recording[path, "experts"][row], values)
    elif step.recorded[1] == "weights":
        numbers = Looks.of(values)
    else:
        numbers = Vector.of(values)
    return replace(step, numbers=numbers)


def _with_guesses(model: Model, found: list[Section], recording: Recording) -> list[Section]:
    """The layers with their logit lens: the most probable token if the layers ended there."""
    import numpy as np

    from ordito.lens.numbers import best
    from ordito.lens.recording import logit_lens

    layers = [section.path for section in found if section.layer is not None and not section.encoder]
    logits_LV = logit_lens(model, np.stack([recording[path, "output"][0] for path in layers]))
    predicted = {path: best(logits_V, 1)[0] for path, logits_V in zip(layers, logits_LV, strict=True)}
    return [replace(s, guess=_guess(model.tokenizer, *predicted[s.path])) if s.path in predicted else s for s in found]


def _with_embedding(model: Model, section: Section, text: str) -> Section:
    """The section of the pooling, with the values of the text's embedding."""
    from ordito.embed.pool import embed
    from ordito.lens.numbers import Vector

    vector = embed(model.runtime, model.tokenizer, [text])[0]
    last = replace(section.steps[-1], numbers=Vector.of(vector), shape=vector.shape)
    return replace(section, steps=(*section.steps[:-1], last))


def _guess(tokenizer: Tokenizer, id: int, probability: float) -> Guess:
    from ordito.lens.numbers import Guess

    return Guess(id, token_text(tokenizer, id), probability)


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """The text of a token; the name of a control token, or of a token without text."""
    if id >= tokenizer.vocab_size:
        return f"<{id}>"
    return tokenizer.token_bytes(id).decode("utf-8", "replace") or tokenizer.token(id)


def _plain(section: Section, layers: Sequence[int]) -> dict[str, Any]:
    return {
        "path": section.path,
        "layers": list(layers),
        "encoder": section.encoder,
        "steps": [step.to_dict() for step in section.steps],
        "guess": None if section.guess is None else section.guess.to_dict(),
    }
