"""Fields that several dialects have, each number with its range, which is checked before anything else happens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ordito.engine.grammar import Grammar
from ordito.engine.request import MAX_CHOICES, MAX_STOPS
from ordito.engine.sampling import MAX_BIASES
from ordito.errors import OrditoError
from ordito.serve.errors import ApiError
from ordito.text.messages import MAX_DEPTH, deeper_than

MAX_TOKENS = 1 << 24
MAX_TEXT = 1 << 23
MAX_INPUTS = 4096
"""Texts of one request, at most."""
MAX_IGNORED = 32
"""Fields that the header about ignored ones names, at most."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=256)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Bias = Annotated[float, Field(ge=-100, le=100)]
# Long lists are checked up to the first mistake: to collect all of them would take seconds.
Texts = Annotated[list[Text], Field(max_length=MAX_INPUTS, fail_fast=True)]
Ids = Annotated[list[int], Field(max_length=1 << 20, fail_fast=True)]
IdLists = Annotated[list[Ids], Field(max_length=MAX_INPUTS, fail_fast=True)]
StopIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=1024, fail_fast=True)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]


class Body(BaseModel):
    """The body of a request. Unknown fields are accepted, because every client sends some; `ignored` lists them.

    Types are strict: a boolean or a string is not taken as a number, and NaN and infinity are refused.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):  # a content type that is not read as JSON leaves the bytes of the body
            return data
        if deeper_than(data, MAX_DEPTH):
            raise ApiError(400, f"the body is nested deeper than {MAX_DEPTH} levels")
        # Python's parser accepts lone surrogates, NaN and infinity, also in ignored fields, but no answer could contain them.
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            behind = error.object[max(0, error.start - 20) : error.start]
            raise ApiError(400, f"the body has half a character (a lone surrogate) after {behind!r}: remove it") from None
        except ValueError:
            raise ApiError(400, "the body has a number that is NaN or infinite, which JSON does not have: remove it") from None
        return data

    def ignored(self) -> dict[str, str]:
        """A response header that names the fields which were sent and are unknown here."""
        names = sorted(quote(name[:64]) for name in self.model_extra or {})[:MAX_IGNORED]
        return {"x-ignored-params": ",".join(names)} if names else {}


class SamplingFields(Body):
    """Settings of sampling, by the names that clients have for them."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    top_n_sigma: float | None = Field(default=None, ge=-1, le=100)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=100)
    repeat_last_n: int | None = Field(default=None, ge=-1, le=2**31)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    dry_multiplier: float | None = Field(default=None, ge=0, le=100)
    dry_base: float | None = Field(default=None, ge=1, le=10)
    dry_allowed_length: int | None = Field(default=None, ge=1, le=2**31)
    dry_penalty_last_n: int | None = Field(default=None, ge=-1, le=2**31)
    dry_sequence_breakers: list[Stop] | None = Field(default=None, max_length=64)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    mirostat: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0, le=100)
    mirostat_eta: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)

    def sampling(self, recommended: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of `Sampling`: those of the request, else those `recommended` by generation_config.json, else the dialect's
        `defaults`."""
        given = {
            "temperature": self.temperature,
            "top_p": _neutral(self.top_p, 0, 1.0),
            "top_k": _neutral(self.top_k, -1, 0),
            "min_p": self.min_p,
            "typical_p": _neutral(self.typical_p, 0, 1.0),
            "top_n_sigma": None if self.top_n_sigma is None else max(0.0, self.top_n_sigma),
            "repetition_penalty": self._repetition_penalty(),
            "repetition_window": _neutral(self.repeat_last_n, -1, 0),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "dry_multiplier": self.dry_multiplier,
            "dry_base": self.dry_base,
            "dry_allowed_length": self.dry_allowed_length,
            "dry_window": _neutral(self.dry_penalty_last_n, -1, 0),
            "dry_breakers": self.dry_sequence_breakers,
            "xtc_probability": self.xtc_probability,
            "xtc_threshold": self.xtc_threshold,
            "mirostat": self.mirostat,
            "mirostat_tau": self.mirostat_tau,
            "mirostat_eta": self.mirostat_eta,
            "seed": None if self.seed is None or self.seed == -1 else self.seed % 2**64,
        }
        kept = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        advised = {name: recommended[name] for name in kept if isinstance(recommended.get(name), int | float)}
        if recommended.get("do_sample") is False:
            advised["temperature"] = 0.0
        return {**defaults, **advised, **{name: value for name, value in given.items() if value is not None}}

    def _repetition_penalty(self) -> float | None:
        if self.repeat_last_n == 0:
            return 1.0
        return self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty


class OpenFields(SamplingFields):
    """What OpenAI's chat completions and completions share, and the fields that vLLM, llama.cpp and Ollama add."""

    model: Name = ""
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    stop: Stops | None = None
    stop_token_ids: StopIds | None = None
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    logit_bias: dict[str, Bias] | None = Field(default=None, max_length=MAX_BIASES)
    user: str | None = None
    ignore_eos: bool | None = None
    num_ctx: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    keep_alive: Any = None
    ttl: Any = None
    cache_salt: Name | None = None
    response_format: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = None
    guided_grammar: Text | None = None
    grammar: Text | None = None
    structured_outputs: dict[str, Any] | None = None

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream is to end with a chunk of its `usage`."""
        return bool((self.stream_options or {}).get("include_usage"))

    def biases(self) -> dict[int, float]:
        """Token id -> what is added to its logit."""
        try:
            return {int(id): bias for id, bias in (self.logit_bias or {}).items()}
        except ValueError:
            raise ApiError(400, "logit_bias must have token ids as keys", param="logit_bias") from None

    def wanted_grammar(self) -> Grammar | None:
        """The grammar that constrains the answer, whichever field asks for it; None if there is none."""
        structured = self.structured_outputs or {}
        schema = self.guided_json if self.guided_json is not None else structured.get("json")
        if schema is not None:
            return Grammar("json_schema", schema) if isinstance(schema, str) else Grammar.json_schema(schema)
        if regex := _text(self.guided_regex or structured.get("regex"), "regex"):
            return Grammar("regex", regex)
        choices = self.guided_choice if self.guided_choice is not None else structured.get("choice")
        if choices is not None:
            return Grammar.choice(choices)
        if rules := _text(self.guided_grammar or self.grammar or structured.get("grammar"), "grammar"):
            return Grammar("gbnf" if "::=" in rules else "lark", rules)
        return grammar_of_format(self.response_format)


def grammar_of_format(wanted: Any, field: str = "response_format") -> Grammar | None:
    """The grammar of OpenAI's `response_format`, of `text.format` in responses, or of Anthropic's `output_config.format`.

    Raises `ApiError`, which names the `field`, for anything else.
    """
    if not isinstance(wanted, dict | None):
        raise ApiError(400, f"{field} must be an object, got {type(wanted).__name__}", param=field)
    match (wanted or {}).get("type", "text"):
        case "text":
            return None
        case "json_object":
            return Grammar("json_object")
        case "json_schema":
            assert wanted is not None
            inner = wanted.get("json_schema", wanted)
            schema = inner.get("schema") if isinstance(inner, dict) else None
            if not isinstance(schema, dict | bool):
                raise ApiError(400, f"{field}: json_schema needs a schema", param=field)
            return Grammar.json_schema(schema)
        case other:
            raise ApiError(400, f"{field}: type is {other!r:.100}, expected text, json_object or json_schema", param=field)


def keep_alive_seconds(value: Any) -> float | None:
    """Ollama's `keep_alive`: seconds, or a text like 5m, 1h30m, 300ms; None where there is none. Raises `OrditoError`."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
    if isinstance(value, str) and len(value) < 64:
        if re.fullmatch(r"-?\d{1,12}", value):
            return float(value)
        if re.fullmatch(r"-?(\d{1,12}(\.\d{1,9})?(ns|us|ms|s|m|h))+", value):
            parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", value)
            return (-1 if value.startswith("-") else 1) * sum(float(number) * units[unit] for number, unit in parts)
    raise OrditoError(f"keep_alive is {value!r:.100}, expected seconds or a duration such as 5m")


def _neutral(value: Any, off: float, ours: Any) -> Any:
    """The value, or, where it is the one by which clients switch a step off, the one by which `Sampling` does."""
    return ours if value == off and value is not None else value


def _text(value: Any, name: str) -> str:
    """A field that must be a text; "" if it is null or missing, because some clients send every field that they know.

    Raises `ApiError`.
    """
    if not isinstance(value, str | None):
        raise ApiError(400, f"{name} must be a text, got {type(value).__name__}", param=name)
    return value or ""
