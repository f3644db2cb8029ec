"""Requests to tokens, on any runtime: many at once by continuous batching, each with the tokens that it would get alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ordito.engine.drafting import MAX_DRAFT, Drafter, DraftModel, PromptLookup
from ordito.engine.penalties import tokens_containing
from ordito.engine.prefix import PrefixCache, shared_length
from ordito.engine.queue import Queue
from ordito.engine.request import Request
from ordito.engine.running import Running
from ordito.engine.stream import Mailbox, Stream
from ordito.errors import OrditoError
from ordito.runtime import Runtime
from ordito.spec import LongRopeScaling

if TYPE_CHECKING:
    from ordito.accounting.cache import Cache
    from ordito.text.tokenizer import Tokenizer

MOST_TOGETHER = 64
"""Answers in one batch at most, unless told otherwise."""
MAX_CHUNK, MIN_CHUNK = 512, 32
"""Tokens of prompts that are prefilled in one step, at most and at least."""
PREFILL_SECONDS, DECODE_SECONDS = 1.0, 0.15
"""How long a step should take: while prompts alone are read, and while answers are being decoded, which a step holds up."""
SCORED_CHUNK = 64
"""Tokens of a prompt that are prefilled in one step where `prompt_logprobs` asks for logits after each of them."""
SHARED = 64
"""Tokens of a prompt, at least, for whose prefill by another answer one waits."""
GROWTH = 32
"""Tokens that every answer should have room for when another is admitted: a page of the native runtime's cache."""
_NUMBER_BYTES = {"f32": 4, "f16": 2, "q8": 1}
MAX_SPECULATING = 4
"""Running answers up to which speculative decoding pays: in a larger batch, checking drafts costs more than it saves."""


class Servable(Protocol):
    """What the engine needs of a model."""

    runtime: Runtime

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    def prepare(self, prompt: Any, **settings: Any) -> Request:
        """A request from a text or a conversation."""


@dataclass
class Counts:
    """What an engine has done since it was made."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    made_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    preempted: int = 0
    steps: int = 0


class Engine:
    """Serves many requests at once on one runtime: continuous batching (Orca, OSDI 2022) with a prefix cache.

    In each step every answer that is being decoded gets a token, and chunks of prompts are prefilled beside them (chunked
    prefill, arXiv:2308.16369). Users are admitted in turn. Sequences of finished answers stay as a prefix cache as long as all
    sequences together take at most `cache_limit` bytes (None: no limit); beyond it, the least recently used one is evicted,
    and, when none is left, the youngest running answer is preempted and computed again later.

    Whoever waits for an answer drives the engine, or, after `start`, a thread of its own does, as servers need it. `cache` is
    the type of keys and values: f32, f16, q8 or int16. `draft` is a smaller model with the same vocabulary, for speculative
    decoding; without one, draft tokens are looked up in the text itself. Raises `OrditoError` for another vocabulary or a wrong
    number.
    """

    def __init__(
        self,
        model: Servable,
        *,
        most_together: int = MOST_TOGETHER,
        cache_limit: int | None = None,
        cache: str | None = None,
        draft: Servable | None = None,
    ) -> None:
        if draft is not None and draft.tokenizer.vocabulary.tokens != model.tokenizer.vocabulary.tokens:
            raise OrditoError("the draft model has another vocabulary than the model whose tokens it is to guess")
        if isinstance(most_together, bool) or not isinstance(most_together, int) or most_together < 1:
            raise OrditoError(f"most_together is {most_together!r}, expected a whole number of at least 1")
        self.model, self.runtime, self.draft = model, model.runtime, draft
        self.most_together, self.cache_limit, self.cache = most_together, cache_limit, cache
        attentions = [block for _, block in self.runtime.spec.attentions]
        self.windowed = any(block.span for block in attentions)
        scalings = {block.rope.scaling for block in attentions if block.rope is not None}
        self._switches = {scaling.context for scaling in scalings if isinstance(scaling, LongRopeScaling)}
        self.counts = Counts()
        self.running: list[Running] = []
        self.prefixes = PrefixCache()
        self._inbox: deque[Mailbox] = deque()
        self._waiting = Queue()
        self._turn = threading.RLock()
        self._awake = threading.Condition()
        self._woken = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._token_seconds = 0.0
        self._cache: Cache | None = None

    def submit(self, prompt: Any, **settings: Any) -> Stream:
        """The answers to a text, a conversation, or a `Request`, as they are made; `settings` are those of `Model.stream`."""
        if self._closed:
            raise OrditoError("this engine is closed")
        request = prompt if isinstance(prompt, Request) else self.model.prepare(prompt, **settings)
        box = Mailbox(request, time.perf_counter())
        self._inbox.append(box)
        self.wake()
        return Stream(self, box)

    @property
    def waiting(self) -> int:
        """Answers that have not begun."""
        return len(self._waiting) + len(self._inbox)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.running or self.waiting)

    # The thread that runs the steps: the engine's own, or that of whoever waits for an answer.

    def start(self) -> None:
        """Run on a thread of its own from now on."""
        with self._awake:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="ordito-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Cancel all answers, end the thread and drop the prefix cache."""
        self._closed = True
        self.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._turn:
            self._receive()
            for one in (*self.running, *self._waiting):
                one.cancel()
            self.running, self.prefixes = [], PrefixCache()
            self._waiting.clear()

    def wake(self) -> None:
        """Tell the engine's thread that there is something to do."""
        with self._awake:
            self._woken = True
            self._awake.notify_all()

    def drive(self, arrived: threading.Event) -> None:
        """Do a step, or wait for `arrived` while the engine's own thread does."""
        if self._thread is not None:
            arrived.wait(1.0)
            return
        with self._turn:
            if not arrived.is_set():
                self.step()

    def _run(self) -> None:
        while not self._closed:
            with self._awake:
                self._woken = False
            if not self.step():
                with self._awake:
                    self._awake.wait_for(lambda: self._woken or self._closed)

    # A step.

    def step(self) -> bool:
        """Run one batch and deliver its tokens; returns whether there was something to do."""
        with self._turn:
            batch: list[tuple[Running, int]] = []
            try:
                self._receive()
                self._sweep()
                self._admit()
                batch = self._batch()
                if not batch:
                    return bool(self.waiting)
                self._compute(batch)
            except BaseException as error:
                for one in [one for one, _ in batch] or list(self.running):
                    self._fail(one.box, error)
                if self._thread is None:
                    raise
            return True

    def _fail(self, box: Mailbox, error: BaseException) -> None:
        """End all answers of a request with an error, and drop their sequences, which a failed step may have half written."""
        self.counts.failed += box.left
        box.fail(error)
        for one in [one for one in self.running if one.box is box]:
            self._leave(one)

    def _receive(self) -> None:
        while self._inbox:
            box = self._inbox.popleft()
            try:
                self._enter(box)
            except Exception as error:
                self._fail(box, error)

    def _enter(self, box: Mailbox) -> None:
        sampling = box.request.sampling
        breakers: frozenset[int] = frozenset()
        if sampling.dry_multiplier:
            breakers = tokens_containing(self.model.tokenizer, tuple(sampling.dry_breakers))
        first, *others = (Running(box, index, breakers, self._drafter(box.request)) for index in range(box.request.n))
        first.followers = others
        self._waiting.add(first)

    def _drafter(self, request: Request) -> Drafter | None:
        if not request.speculate or self.runtime.reads_whole:
            return None
        return PromptLookup() if self.draft is None or request.source is not None else DraftModel(self.draft.runtime)

    def _sweep(self) -> None:
        """Drop cancelled requests, running and waiting."""
        for one in [one for one in self.running if one.box.cancelled]:
            self._finish(one)
        for one in [one for one in self._waiting if one.box.cancelled]:
            self._waiting.remove(one)
            self._finish(one)

    def _admit(self) -> None:
        """Start waiting requests, one user after another, as long as there is room in the batch and in memory; those that would
        read what is being read already are passed over until it was."""
        while self._waiting and len(self.running) < self.most_together:
            one = self._waiting.first(lambda one: not self._awaits(one))
            if one is None:
                return
            if self.running and len(self.running) + 1 + len(one.followers) > self.most_together:
                return
            if self.running and not self._make_room(self._needed(one), preempt=False):
                return
            self._waiting.take(one)
            self._begin(one)

    def _awaits(self, new: Running) -> bool:
        """Whether a running answer is about to read a long prefix of this one's prompt, which nothing has read before. This
        ends with the other's prefill, so that no answer waits forever."""
        if not self._caches(new):
            return False
        for other in self.running:
            if other.made or other.request.user != new.request.user or other.ids[:SHARED] != new.ids[:SHARED]:
                continue
            shared = min(shared_length(other.ids, new.ids), len(new.ids) - 1)
            # A windowed cache can be continued only at its end.
            if self.windowed and shared < len(other.ids) - 1:
                continue
            cached = self.prefixes.longest(new.ids, new.request.user)
            if shared - cached >= SHARED and int(other.sequence.length) < shared:
                return True
        return False

    def _caches(self, one: Running) -> bool:
        """Whether an answer can begin with what others have read."""
        return one.request.source is None and one.request.prompt_logprobs is None and not self.runtime.reads_whole

    def _needed(self, new: Running) -> int:
        """Bytes of keys and values that the running answers and a `new` one have yet to allocate: what they have not read, and
        room to grow for each, without which an answer would be admitted only to be preempted by the next step."""
        if self._cache is None:
            from ordito.accounting.cache import cache_of  # imported late: a single answer does not need it

            self._cache = cache_of(self.runtime.spec)
        unread = [len(new.ids), *(one.unread for one in self.running)]
        return sum(self._cache.at(tokens + GROWTH, _NUMBER_BYTES.get(self.cache or "", 2)) for tokens in unread)

    def _begin(self, one: Running) -> None:
        request, box = one.request, one.box
        try:
            found = None
            if self._caches(one):
                begun = [(other.ids, other.sequence, other.request.user) for other in self.running]
                found = self.prefixes.find(one.ids, request.user, begun)
            one.sequence = found.sequence if found and found.sequence is not None else None
            if one.sequence is None:
                one.sequence = self.runtime.sequence(request.source, self.cache)
        except Exception as error:
            self._fail(box, error)
            return
        if box.admitted is None:
            box.admitted = time.perf_counter()
            box.cached, box.missed = int(one.sequence.length), found.missed if found else "this request cannot use it"
            self.counts.prompt_tokens += len(request.prompt)
            self.counts.cached_tokens += box.cached
        self.running.append(one)

    def _make_room(self, bytes: int, *, preempt: bool) -> bool:
        """Evict cached sequences, then with `preempt` running answers, until `bytes` more fit; returns whether they do."""
        while self.cache_limit is not None and self.runtime.cache_bytes() + bytes > self.cache_limit:
            if self.prefixes.drop():
                continue
            if not preempt or len(self.running) < 2:
                return False
            self._preempt(self.running[-1])
        return True

    def _preempt(self, one: Running) -> None:
        """Send a running answer back to the queue without its sequence, which is computed again when it is admitted."""
        self.running.remove(one)
        one.sequence, one.drafted = None, []
        self._waiting.put_back(one)
        self.counts.preempted += 1

    def _batch(self) -> list[tuple[Running, int]]:
        """The next batch: each answer in it, and how many of its tokens to read, drafts not counted."""
        self._make_room(0, preempt=True)
        for one in self.running:
            if any(0 < one.sequence.length <= switch < len(one.ids) for switch in self._switches):
                one.sequence.rewind(0)  # beyond its original context LongRoPE rotates every key by other angles
        decoding = [one for one in self.running if one.decoding and one.made]
        reading = [one for one in self.running if not (one.decoding and one.made)]
        most = MAX_DRAFT if len(self.running) <= MAX_SPECULATING and not self.runtime.reads_whole else 0
        for one in decoding:
            one.draft(most)
        batch = [(one, 1) for one in decoding]
        left = self._chunk(bool(decoding))
        for number, one in enumerate(sorted(reading, key=lambda one: one.unread)):
            share = one.unread if self.runtime.reads_whole else min(one.unread, max(left // (len(reading) - number), 1))
            if one.request.prompt_logprobs is not None:
                share = min(share, SCORED_CHUNK)  # each of them has logits of the whole vocabulary
            if left <= 0 and batch:
                break
            batch.append((one, share))
            left -= share
        return batch

    def _chunk(self, decoding: bool) -> int:
        """Tokens of prompts for the next step, by the time that a token took lately."""
        seconds = DECODE_SECONDS if decoding else PREFILL_SECONDS
        return int(min(MAX_CHUNK, max(MIN_CHUNK, seconds / self._token_seconds))) if self._token_seconds else MAX_CHUNK

    def _compute(self, batch: list[tuple[Running, int]]) -> None:
        parts, wanted, rows, start = [], [], [], 0
        for one, count in batch:
            length = int(one.sequence.length)
            ids = one.ids[length : length + count] + one.drafted
            some = one.wanted(len(ids))
            parts.append((one.sequence, ids))
            rows.append(len(some))
            wanted += [start + row for row in some]
            start += len(ids)
        begin = time.perf_counter()
        asked = [one.greatest for (one, _), number in zip(batch, rows, strict=True) if number]
        logits = self.runtime.step(parts, wanted, max(asked, default=0) if all(asked) else 0)
        if start >= MIN_CHUNK:
            seconds = (time.perf_counter() - begin) / start
            self._token_seconds = seconds if not self._token_seconds else 0.7 * self._token_seconds + 0.3 * seconds
        self.counts.steps += 1
        place = 0
        for (one, count), number in zip(batch, rows, strict=True):
            try:
                if one.sequence is not None:  # else another answer to its request has just failed
                    self._advance(one, logits[place : place + number], count)
            except Exception as error:  # such as a grammar that cannot be followed: only this answer fails
                self._fail(one.box, error)
            place += number

    def _advance(self, one: Running, logits: Any, count: int) -> None:
        box = one.box
        before, drafted, accepted = one.made, box.drafted, box.accepted
        if self.windowed and not one.made:
            # A windowed cache cannot be rewound far, so the prompt is kept apart for prompts that begin like it.
            self._keep(one, one.sequence.fork(int(one.sequence.length)))
        read = one.unread == 0 and len(logits) > 0
        one.advance(logits, count)
        if one.followers and read:  # after its first delta, which has the prompt's log probabilities
            self._follow(one, logits[-1:])
        self.counts.made_tokens += one.made - before
        self.counts.drafted_tokens += box.drafted - drafted
        self.counts.accepted_tokens += box.accepted - accepted
        if one.finish is not None:
            self._finish(one)

    def _follow(self, one: Running, logits_1V: Any) -> None:
        """Start the other `n` - 1 answers to a prompt from a fork of the sequence that has just read it."""
        followers, one.followers = one.followers, []
        for other in followers:
            other.sequence = one.sequence.fork(int(one.sequence.length))
            self.running.append(other)
            other.advance(logits_1V, 0)
            self.counts.made_tokens += other.made
            if other.finish is not None:
                self._finish(other)

    def _finish(self, one: Running) -> None:
        """End an answer; its sequence goes into the prefix cache, where other requests may continue it."""
        if one.finish is None:
            one.cancel()
            self.counts.cancelled += 1
        else:
            self.counts.finished += 1
        for other in one.followers:
            other.cancel()
        if one.sequence is not None and one.request.source is None and not self.runtime.reads_whole:
            self._keep(one, one.sequence)
        self._leave(one)

    def _keep(self, one: Running, sequence: Any) -> None:
        ids = one.ids[: int(sequence.length)]
        self.prefixes.keep(ids, sequence, one.request.user, windowed=self.windowed)

    def _leave(self, one: Running) -> None:
        if one in self.running:
            self.running.remove(one)
        one.sequence = None
