"""Constrained decoding: answers that follow a JSON schema, a regular expression, a choice, or a Lark or GBNF grammar.

llguidance computes which tokens are allowed next; this module limits the size of grammars and passes it our vocabularies.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ordito.errors import OrditoError
from ordito.text.messages import deeper_than

if TYPE_CHECKING:
    from ordito.text.tokenizer import Tokenizer

MAX_BYTES = 256 << 10
"""Bytes of a schema or grammar, at most."""
MAX_DEPTH = 64
"""Levels of nesting of a schema, regular expression or grammar, at most."""
MAX_COMPILED = 64
"""Compiled grammars in the cache of a vocabulary, at most."""
_STACK = 512 << 20
"""Bytes of stack of the thread that compiles: reserved, and mostly never touched. llguidance recurses along references and
rules, of which `MAX_BYTES` can hold tens of thousands: with the usual 8 MiB that overflows, and ends the process."""

_STARTING = threading.Lock()  # the size of stacks is one of the whole process: all models take turns
T = TypeVar("T")
Kind = Literal["json_schema", "json_object", "regex", "choice", "lark", "gbnf", "calls"]

_IN_JSON = ("json_schema", "json_object", "regex")
"""Kinds that llguidance describes in JSON, the others in rules."""


@dataclass(frozen=True)
class Grammar:
    """A grammar as the user gave it: a JSON schema as JSON text, a regular expression, choices as a JSON list, or rules.

    `around`: rules in the Lark dialect of llguidance in which it is `@answer`.
    """

    kind: Kind
    text: str = ""
    around: str = ""

    @classmethod
    def json_schema(cls, schema: Any) -> Grammar:
        """A grammar from a schema as data. Raises `OrditoError` for one that is nested too deep."""
        if deeper_than(schema, MAX_DEPTH):
            raise OrditoError(f"the JSON schema is nested deeper than {MAX_DEPTH} levels")
        return cls("json_schema", json.dumps(schema))

    @classmethod
    def choice(cls, choices: Any) -> Grammar:
        """A grammar that allows one of a list of texts. Raises `OrditoError` for anything else, and for empty texts."""
        if not isinstance(choices, list | tuple) or not choices or not all(isinstance(text, str) and text for text in choices):
            raise OrditoError("a choice must be a list of texts that are not empty")
        return cls("choice", json.dumps(list(choices)))


class Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self.matcher, self.vocab_size = matcher, vocab_size

    def allowed(self, width: int) -> np.ndarray:
        """Mask (width,) of the tokens that are allowed next, with end tokens if the answer may end here.

        Raises `OrditoError` if the grammar exceeds llguidance's limits of time or memory.
        """
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), count=width, bitorder="little")
        if self.matcher.is_error():
            raise OrditoError(f"the grammar is too hard to follow: {_first_line(self.matcher.get_error())}")
        return bits.view(bool)

    def push(self, id: int) -> None:
        """Advance by one token."""
        self.matcher.consume_token(id)

    @property
    def finished(self) -> bool:
        """Whether no further token is allowed."""
        return bool(self.matcher.is_stopped())


class Grammars:
    """The compiled grammars of one vocabulary; thread-safe."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int], vocab_size: int) -> None:
        self.tokenizer, self.end_ids, self.vocab_size = tokenizer, end_ids, vocab_size
        self.lock = threading.Lock()
        self.compiled: OrderedDict[Grammar, Any] = OrderedDict()
        self.token_trie: Any = None

    def prepared(self, grammar: Grammar) -> Callable[[], Matcher]:
        """A factory of matchers of `grammar`, which is compiled now; making them does not wait for other grammars.

        Raises `OrditoError` for a grammar that is invalid or beyond the limits.
        """
        compiled = self._compiled(grammar)
        return lambda: Matcher(compiled.deep_copy(), self.vocab_size)

    def _compiled(self, grammar: Grammar) -> Any:
        with self.lock:
            if grammar not in self.compiled:
                self.compiled[grammar] = _on_a_large_stack(lambda: self._compile(grammar))
                while len(self.compiled) > MAX_COMPILED:
                    self.compiled.popitem(last=False)
            self.compiled.move_to_end(grammar)
            return self.compiled[grammar]

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        if len((grammar.text + grammar.around).encode()) > MAX_BYTES:
            raise OrditoError(f"the {grammar.kind} has {len(grammar.text):,} characters, expected at most {MAX_BYTES:,}")
        limits = LLParserLimits(verbose_errors=False)
        rules = _rules(grammar)
        if grammar.around:
            inner = json.loads(rules)["grammars"][0] if grammar.kind in _IN_JSON else {"lark_grammar": rules}
            rules = json.dumps({"grammars": [{"lark_grammar": grammar.around}, {**inner, "name": "answer"}]})
        matcher = LLMatcher(self._tokens(), rules, log_level=0, limits=limits)
        first = matcher.deep_copy()
        if not matcher.is_error():
            first.compute_bitmask()  # some invalid rules are found only here
        if first.is_error():
            raise OrditoError(f"the {grammar.kind} cannot be used: {_first_line(first.get_error())}")
        return matcher

    def _tokens(self) -> Any:
        if self.token_trie is None:
            from llguidance import LLTokenizer
            from llguidance import TokenizerWrapper as Wrapper

            self.token_trie = LLTokenizer(
                Wrapper(_Vocabulary(self.tokenizer, self.end_ids)), n_vocab=self.vocab_size, eos_token=sorted(self.end_ids)
            )
        return self.token_trie


class _Vocabulary:
    """Our vocabulary with the attributes that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = min(end_ids)
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = [tokenizer.vocabulary.bytes_of(id) for id in range(tokenizer.vocab_size)]

    def __call__(self, text: bytes | str) -> list[int]:
        written = text.decode("utf-8", "ignore") if isinstance(text, bytes) else text
        return self.tokenizer.encode(written, add_special_tokens=False)


def _on_a_large_stack(work: Callable[[], T]) -> T:
    """The result of `work` on a thread with `_STACK` bytes of stack. Raises what `work` raises, `OrditoError` without room."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    with _STARTING:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=run, name="ordito-grammar", daemon=True).start()
        except RuntimeError as error:
            raise OrditoError(f"the grammar cannot be compiled ({error}): free memory, or end other processes") from None
        finally:
            threading.stack_size(before)
    return done.result()


def _rules(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    # Without flexible white space, because small models otherwise generate white space without end.
    compact: Any = {"whitespace_flexible": False}
    try:
        match grammar.kind:
            case "json_schema":
                return LLMatcher.grammar_from_json_schema(grammar.text, overrides=compact)
            case "json_object":
                return LLMatcher.grammar_from_json_schema('{"type": "object"}', overrides=compact)
            case "regex":
                _check_nesting(grammar.text)
                return LLMatcher.grammar_from_regex(grammar.text)
            case "choice":
                return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(grammar.text))))
            case "gbnf":
                _check_nesting(grammar.text)
                return LLMatcher.grammar_from_lark(_lark_of_gbnf(grammar.text))
            case "calls":
                return LLMatcher.grammar_from_lark(grammar.text)
            case "lark":
                _check_nesting(grammar.text)
                return LLMatcher.grammar_from_lark(grammar.text)
    except OrditoError:
        raise
    except Exception as error:
        raise OrditoError(f"the {grammar.kind} cannot be used: {_first_line(str(error))}") from None


def _lark_of_gbnf(text: str) -> str:
    """GBNF rules in the syntax of Lark, those that a rule refers to before it.

    llguidance's converter searches all rules for terminals until it finds no more, which takes one pass in this order, and in
    the usual one as many as there are rules in a chain of references.
    """
    from llguidance.gbnf_to_lark import GrammarParser, RuleRefNode, resolve

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, RuleRefNode) and node.name in rules:
            yield node.name
        for child in node.children():
            yield from references(child)

    rules = GrammarParser().parse(text)
    ordered: dict[str, Any] = {}
    entered, stack = set[str](), list(rules)
    while stack:
        if (name := stack[-1]) in entered:
            ordered[stack.pop()] = rules[name]
        else:
            entered.add(name)
            stack += (other for other in references(rules[name]) if other not in entered)
    resolve(ordered)
    return "%llguidance {}\n\n" + "\n".join(map(str, ordered.values()))


def _check_nesting(text: str) -> None:
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth > MAX_DEPTH:
            raise OrditoError(f"the grammar is nested deeper than {MAX_DEPTH} levels")


def _first_line(message: str) -> str:
    return " ".join(message.split())[:300]
