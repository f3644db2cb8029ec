"""The state of one running answer: its tokens, its sequence, and how the next token is sampled and delivered."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from ordito.engine.drafting import Drafter
from ordito.engine.logprobs import token_with_logprob
from ordito.engine.request import Delta, FinishReason, Request, Token
from ordito.engine.sampling import Sampler
from ordito.runtime import Floats
from ordito.text.answers import Call, Part

if TYPE_CHECKING:
    import numpy as np

    from ordito.engine.stream import Mailbox


class Running:
    """The `index`th answer of a request. `ids` are the prompt and the tokens made so far, of which the last is not read yet."""

    def __init__(self, box: Mailbox, index: int, breakers: frozenset[int], drafter: Drafter | None) -> None:
        self.box, self.index = box, index
        self.request: Request = box.request
        self.ids = list(self.request.prompt)
        self.sequence: Any = None
        seed = self.request.sampling.seed
        self.sampler = Sampler(self.request.sampling, breakers)
        if seed is not None and index:
            self.sampler.reseed((seed, index))
        self.reader = self.request.read()
        self.matcher = self.request.match() if self.request.match else None
        self.drafter = drafter
        self.drafted: list[int] = []
        self.forced: deque[int] = deque()
        self.thought = 0
        self.followers: list[Running] = []
        self.prompt_tokens: list[Token] = []
        self.finish: FinishReason | None = None

    @property
    def made(self) -> int:
        """Tokens of the answer."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def unread(self) -> int:
        """Tokens that the sequence does not hold yet."""
        return len(self.ids) - int(self.sequence.length)

    @property
    def decoding(self) -> bool:
        """Whether only the last token is left to read: the prompt was prefilled."""
        return self.unread == 1

    def draft(self, most: int) -> None:
        """Propose up to `most` draft tokens for the next step, as far as there is room."""
        count = min(most, self.request.room - self.made - 1)
        self.drafted = []
        if self.drafter is not None and count > 0 and not self.forced:
            self.drafted = self.drafter.propose(self.ids, count)

    def wanted(self, count: int) -> list[int]:
        """Which of the next `count` rows need logits: once the prompt is read, its last row and those of draft tokens."""
        if self.request.prompt_logprobs is not None and self.made == 0:
            return list(range(count))
        ends = count == self.unread + len(self.drafted)
        return list(range(count - 1 - len(self.drafted), count)) if ends else []

    @property
    def greatest(self) -> int:
        """How many of the largest logits are enough to choose the next token; 0 where all may be needed."""
        request = self.request
        told = request.logprobs is not None or (request.prompt_logprobs is not None and self.made == 0)
        return 0 if told or self.matcher or self.made < request.min_tokens else self.sampler.sampling.greatest

    def advance(self, logits: Floats, read: int) -> None:
        """Choose tokens by the logits (rows, V) of the `read` tokens that were just read, and check the drafts after them."""
        if self.request.prompt_logprobs is not None and self.made == 0:
            self._note_prompt(logits, read)
            logits = logits[-1:]
        if self.unread > 0 and not self.drafted:
            return  # the prompt is not read to its end yet
        drafted, self.drafted = self.drafted, []
        accepted = 0
        for place, logits_V in enumerate(logits):
            if self.finish is None and self.request.room == 0:
                self._end("length")
            if self.finish is not None:
                break
            token = self.choose(logits_V)
            if self.finish is None and place < len(drafted) and token == drafted[place]:
                accepted += 1
            else:
                break
        if drafted:
            self.sequence.rewind(min(self.sequence.length, len(self.ids) - 1))
            assert self.drafter is not None
            self.drafter.learn(len(drafted), accepted)
            self.box.drafted += len(drafted)
            self.box.accepted += accepted

    def choose(self, logits_V: Floats) -> int:
        """Choose the next token and deliver it."""
        if self.forced:  # the tokens that end a thought are not bound by the grammar
            token, held = self.forced.popleft(), False
        else:
            held, leading = self.reader.bound, self.reader.leading()
            token = self.sampler.choose(logits_V, self.ids, self.made, self._allowed(len(logits_V), leading))
            held = held and token not in leading
        self._pass_on(token, logits_V, held)
        return token

    def _allowed(self, width: int, leading: Set[int]) -> np.ndarray | None:
        """Mask (width,) of the tokens that may come by the grammar and `min_tokens`; None for all. Thoughts are free, but the
        answer cannot end in one; `leading` tokens may come before what the grammar binds."""
        import numpy as np

        allowed = None
        if self.matcher and self.reader.bound:
            allowed = self.matcher.allowed(width)
            allowed[list(leading)] = True
        elif self.matcher:
            allowed = np.full(width, not leading)
            allowed[list(leading)] = True
            allowed[[id for id in self.request.end_ids if id < width]] = False
        if self.made < self.request.min_tokens:
            allowed = np.ones(width, bool) if allowed is None else allowed
            ends = [id for id in self.request.end_ids if id < width]
            if allowed.sum() > allowed[ends].sum():
                allowed[ends] = False
        return allowed

    def _pass_on(self, token: int, logits_V: Floats, held: bool) -> None:
        request = self.request
        if token in request.end_ids:
            self._end("stop")
            return
        self.ids.append(token)
        parts = self.reader.push(token)
        if held and self.matcher:
            self.matcher.push(token)
        told = [token_with_logprob(token, logits_V, request.logprobs)]
        if request.one_call:
            second = next((place for place, part in enumerate(parts) if isinstance(part, Call) and part.index > 0), None)
            if second is not None:
                self.finish = "stop"
                self.pass_delta(told, parts[:second])
                return
        if self.reader.thinking:
            self.thought += 1
            self.box.thought += 1
            if request.thinking_budget is not None and self.thought >= request.thinking_budget and not self.forced:
                self.forced.extend(request.thought_end)
        if self.reader.stopped is not None or (held and self.matcher and self.matcher.finished):
            self._end("stop", told, parts)
        elif self.made >= request.room:
            self._end("length", told, parts)
        else:
            self.pass_delta(told, parts)

    def _end(self, finish: FinishReason, tokens: Sequence[Token] = (), parts: Sequence[Part] = ()) -> None:
        self.finish = finish
        rest = self.reader.flush(cut=finish != "stop")
        if self.reader.stopped is not None:
            self.finish = "stop"
        self.pass_delta(tokens, [*parts, *rest])

    def pass_delta(self, tokens: Sequence[Token], parts: Sequence[Part]) -> None:
        """Deliver new tokens and parts to the stream."""
        prompt, self.prompt_tokens = self.prompt_tokens, []
        self.box.put(Delta(self.index, tokens, parts, self.finish, self.reader.stopped, prompt), time.perf_counter())

    def cancel(self) -> None:
        """End the answer without another token."""
        if self.finish is None:
            self._end("cancelled")

    def _note_prompt(self, logits: Floats, read: int) -> None:
        """Note the log probability of each token of the prompt, by the logits of the one before it; the first has none."""
        ids, start = self.ids, int(self.sequence.length) - read
        if start == 0:
            self.prompt_tokens.append(Token(ids[0]))
        for row, logits_V in enumerate(logits):
            if start + row + 1 < len(self.request.prompt):
                token = token_with_logprob(ids[start + row + 1], logits_V, self.request.prompt_logprobs)
                self.prompt_tokens.append(token)
