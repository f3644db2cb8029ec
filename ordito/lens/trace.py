"""One token followed through a model: each step with its formula, its shape and, where there are weights, its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ordito.lens.steps import formulas
from ordito.runtime import Floats
from ordito.spec import (
    Attention,
    Block,
    Chain,
    Embedding,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Residual,
    Spec,
    Stack,
    Sum,
    leaves_of,
)

if TYPE_CHECKING:
    from ordito.lens.record import Recording

LOOKED_AT = 3
"""Keys that are named for each head, the most looked at first."""
GUESSES = 5
"""Next tokens that are named at the end."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step: where, what, its formula, the shape of what comes out for the token, and that itself, if it was recorded.

    `notes` say more: what heads look at, which experts were chosen.
    """

    path: str
    what: str
    formula: str
    shape: str = ""
    value: Floats | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; of the vector its length, its root mean square and its first numbers."""
        said: dict[str, Any] = {"path": self.path, "what": self.what, "formula": self.formula, "shape": self.shape}
        if self.value is not None:
            said |= {"rms": rms(self.value), "length": _length(self.value), "first": self.value[:8].tolist()}
        return said | ({"notes": list(self.notes)} if self.notes else {})


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A layer in one line: what its heads look at on average, the experts that it chose, how much each block added to
    the residual stream (by its name, in parts of the stream's length), the stream's root mean square, and the next token that
    the model would guess if it ended here.
    """

    path: str
    looks_at: tuple[tuple[str, float], ...]
    experts: tuple[tuple[int, float], ...]
    changes: dict[str, float]
    rms: float
    guess: tuple[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "path": self.path,
            "looks_at": [{"token": token, "weight": weight} for token, weight in self.looks_at],
            "experts": [{"expert": expert, "weight": weight} for expert, weight in self.experts],
            "changes": self.changes,
            "rms": self.rms,
            "guess": {"token": self.guess[0], "probability": self.guess[1]} if self.guess else None,
        }


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One token's way. `tokens` is the text, `source` that of an encoder; both are empty where there are no weights.

    `position` is the place of the token that is followed. `rows` hold every step of all layers; `layers` each layer in a
    line, and `next_tokens` what the model expects, if it was run.
    """

    spec: Spec
    tokens: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    position: int | None = None
    rows: tuple[Row, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    next_tokens: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "tokens": list(self.tokens),
            "source": list(self.source),
            "position": self.position,
            "steps": [row.to_dict() for row in self.rows],
            "layers": [layer.to_dict() for layer in self.layers],
            "next": [{"token": token, "probability": probability} for token, probability in self.next_tokens],
        }


def trace_spec(spec: Spec) -> Trace:
    """The steps of a model without its weights."""
    return Trace(spec=spec, rows=tuple(_Walk(spec).rows()))


def trace_run(
    spec: Spec,
    found: Recording,
    guess: Callable[[Floats], Floats | None],
    tokens: Sequence[str],
    spelled: Callable[[int], str],
    source: Sequence[str] = (),
) -> Trace:
    """The way of the last of `tokens` through a recorded run.

    `guess` gives the logits that a residual stream (T, D) would make, `spelled` the text of a token id.
    """
    position = len(tokens) - 1
    walk = _Walk(spec, found, tokens, source)
    rows = tuple(walk.rows())
    logits = found.logits[position] if found.logits is not None else None
    causal = spec.generates

    def best(logits: Floats | None, n: int) -> tuple[tuple[str, float], ...]:
        if logits is None or not causal:
            return ()
        probabilities = softmax(logits)
        return tuple((spelled(int(id)), float(probabilities[id])) for id in np.argsort(-probabilities)[:n])

    layers = []
    for layer in walk.layers:
        stream = found.layers[layer.path][-1:] if causal else None
        guessed = guess(stream) if stream is not None and layer.path in walk.guessable else None
        layers.append(replace(layer, guess=next(iter(best(guessed[0], 1)), None) if guessed is not None else None))
    return Trace(
        spec=spec,
        tokens=tuple(tokens),
        source=tuple(source),
        position=position,
        rows=rows,
        layers=tuple(layers),
        next_tokens=best(logits, GUESSES),
    )


class _Walk:
    """A way through the tree of a spec, with what was recorded of each leaf, if anything was."""

    def __init__(
        self, spec: Spec, found: Recording | None = None, tokens: Sequence[str] = (), source: Sequence[str] = ()
    ) -> None:
        self.spec, self.found, self.tokens, self.source = spec, found, tokens, source
        self.keys: Sequence[str] = tokens
        # What the vector is called that the next leaf gets inside of a residual; outside of any, it is x itself.
        self.given: str | None = None
        self.added: dict[str, float] = {}
        self.layers: list[LayerRow] = []
        self.guessable: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """Every step, in the order in which the model takes them."""
        if self.spec.encoder is not None:
            self.keys = self.source or self.tokens
            yield from self._leaf(self.spec.embedding, self.spec.embedding.name, show=False)
            yield from self._block(self.spec.encoder, "", None)
            if self.found is not None and not self.source:
                return  # the encoder alone was run
            self.keys = self.tokens
        yield from self._block(self.spec.body, "", None)
        for part in (self.spec.head, *(self.spec.pooling.dense if self.spec.pooling else ())):
            if part is not None:
                yield from self._block(part, "", None)

    def _value(self, path: str) -> Floats | None:
        recorded = self.found.out.get(path) if self.found is not None else None
        return None if recorded is None else recorded[-1]

    def _block(self, block: Block, prefix: str, x: Floats | None) -> Iterator[Row]:
        """The steps of a block; at the end `self.x` is what came out."""
        self.x = x
        match block:
            case Chain():
                for part in block.parts:
                    yield from self._block(part, prefix, self.x)
            case Residual():
                self.given = "x"
                yield from self._block(block.inner, prefix, x)
                inner, self.given = self.x, None
                if x is not None and inner is not None:
                    self.added[" + ".join(_names(block.inner))] = _length(inner) / _length(x)
                    self.x = x + inner
                else:
                    self.x = None
                yield Row(
                    path=prefix.removesuffix("."), what="add", formula="x = x + o", shape=f"{self.spec.d_model}", value=self.x
                )
            case Sum():
                total: Floats | None = None
                for number, part in enumerate(block.parts):
                    yield from self._block(part, prefix, x)
                    total = self.x if number == 0 else (total + self.x if total is not None and self.x is not None else None)
                self.x = total
            case Stack():
                for number, layer in enumerate(block.layers):
                    before = self.x
                    self.added = {}
                    path = f"{prefix}{block.name}.{number}"
                    yield from self._block(layer, f"{path}.", before)
                    if self.found is not None:
                        self._line(path)
                        if block is not self.spec.encoder and prefix == "":
                            self.guessable.add(path)
            case _:
                path = prefix + str(getattr(block, "name"))  # noqa: B009 - every leaf has a name
                yield from self._leaf(block, path)
                self.x = self._value(path)

    def _leaf(self, leaf: Block, path: str, show: bool = True) -> Iterator[Row]:
        steps = list(formulas(leaf, self.given or "x"))
        if isinstance(leaf, Norm) and self.given is None:
            steps = [replace(step, formula=step.formula.replace("h = ", "x = ", 1)) for step in steps]
        elif self.given in ("x", None) and not isinstance(leaf, (Norm, Embedding)):
            steps[0] = replace(steps[0], formula=f"{steps[0].formula}; h = x")
        if self.given is not None:
            self.given = "h" if isinstance(leaf, Norm) and self.given == "x" else self.given if isinstance(leaf, Norm) else "o"
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            yield Row(
                path=path,
                what=step.what,
                formula=step.formula,
                shape=step.shape,
                value=self._value(path) if last and show else None,
                notes=tuple(self._notes(leaf, path, step.what)),
            )

    def _notes(self, leaf: Block, path: str, what: str) -> Iterator[str]:
        if self.found is None:
            return
        if isinstance(leaf, (Attention, LatentAttention)) and what == "attend" and path in self.found.attention:
            for head, weights in enumerate(self.found.attention[path][:, -1]):
                looked = ", ".join(f"{token} {weight:.2f}" for token, weight in self._looked(weights))
                yield f"head {head:>2}: {looked}; entropy {entropy(weights):.2f} bits"
        if isinstance(leaf, MixtureOfExperts) and what == "route" and path in self.found.experts:
            yield "chosen: " + ", ".join(f"{expert} ({weight:.3f})" for expert, weight in self._experts(path))

    def _looked(self, weights: Floats) -> list[tuple[str, float]]:
        keys = self.source if self.source and len(weights) == len(self.source) != len(self.tokens) else self.keys
        best = np.argsort(-weights)[:LOOKED_AT]
        return [(f"{shown(keys[j])}@{j}", float(weights[j])) for j in best if weights[j] > 0.005]

    def _experts(self, path: str) -> list[tuple[int, float]]:
        assert self.found is not None, "experts are only known of a run"
        weights, chosen = self.found.experts[path]
        return [(int(expert), float(weight)) for expert, weight in zip(chosen[-1], weights[-1], strict=True)]

    def _line(self, path: str) -> None:
        assert self.found is not None, "a layer's line is only known of a run"
        attended = [w for p, w in self.found.attention.items() if p.startswith(f"{path}.")]
        mixtures = [p for p in self.found.experts if p.startswith(f"{path}.")]
        stream = self.found.layers[path][-1]
        self.layers.append(
            LayerRow(
                path=path,
                looks_at=tuple(self._looked(attended[0][:, -1].mean(axis=0))) if attended else (),
                experts=tuple(self._experts(mixtures[0])) if mixtures else (),
                changes=self.added,
                rms=rms(stream),
                guess=None,
            )
        )


def _names(block: Block) -> list[str]:
    """The names of the leaves of a block that are no norms."""
    return [path for path, leaf in leaves_of(block) if not isinstance(leaf, Norm)]


def _length(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def softmax(logits: Floats) -> Floats:
    """Probabilities of logits (V,)."""
    weights: Floats = np.exp(logits - logits.max())
    total: Floats = weights / weights.sum()
    return total


def rms(vector: Floats) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(vector.astype(np.float64)))))


def entropy(weights: Floats) -> float:
    """How spread weights are, in bits: 0 where all is on one key."""
    positive = weights[weights > 0].astype(np.float64)
    return float(abs(-(positive * np.log2(positive)).sum()))


def shown(token: str) -> str:
    """A token between quotes, nothing in it that drives a terminal."""
    text = token if len(token) <= 24 else token[:23] + "…"
    return repr(text)
