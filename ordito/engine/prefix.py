"""Prefix cache: sequences of finished requests, which later prompts that begin alike continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_SEQUENCES = 256
"""Sequences that are kept at most."""


@dataclass(eq=False)
class Kept:
    """A sequence that is no longer written to, and the tokens (T,) that it holds. Only requests of its `user` find it."""

    ids: np.ndarray
    sequence: Any
    user: str


@dataclass(frozen=True)
class Found:
    """A fork of a cached sequence that begins like the prompt, None if there is none; `missed` says why it is not longer."""

    sequence: Any
    missed: str


class PrefixCache:
    """Finished sequences, the least recently used first. Pages that sequences share are in memory once."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def find(self, prompt: Sequence[int], user: str, begun: Sequence[tuple[Sequence[int], Any, str]] = ()) -> Found:
        """A fork of the sequence that shares the longest prefix with `prompt`, without its last token, whose logits are needed.

        `begun` are the sequences of running requests: their ids, of which the sequence may hold fewer, the sequence, the user.
        Where a windowed sequence no longer holds the keys that a shorter prefix would need, another sequence is taken.
        """
        ids, limit = np.asarray(prompt, np.int64), len(prompt) - 1
        others = [Kept(np.asarray(some[: int(sequence.length)], np.int64), sequence, whose) for some, sequence, whose in begun]
        mine = [kept for kept in (*self.kept, *others) if kept.user == user]
        if not mine:
            return Found(None, "nothing is cached yet")
        shared = sorted(((_shared(kept.ids, ids, limit), place) for place, kept in enumerate(mine)), reverse=True)
        longest = shared[0][0]
        for length, place in shared:
            if length == 0:
                break
            fork = mine[place].sequence.fork(length)
            if fork.length == length:
                self._used(mine[place])
                if length == limit:
                    return Found(fork, "")
                return Found(fork, _difference(mine[shared[0][1]].ids, ids, longest, length))
        return Found(None, _difference(mine[shared[0][1]].ids, ids, longest, 0))

    def longest(self, prompt: Sequence[int], user: str) -> int:
        """How many tokens of a prompt the sequence has that shares the longest prefix with it."""
        ids = np.asarray(prompt, np.int64)
        return max((_shared(kept.ids, ids, len(ids) - 1) for kept in self.kept if kept.user == user), default=0)

    def keep(self, ids: Sequence[int], sequence: Any, user: str, *, windowed: bool) -> None:
        """Add a sequence of these ids, which is not written to from now on.

        Of two sequences of which one begins with the other, only the longer is kept, unless they are `windowed`: these cannot
        be rewound to the shorter one.
        """
        if not ids:
            return
        new = Kept(np.asarray(ids, np.int64), sequence, user)
        alike = [kept for kept in self.kept if kept.user == user]
        for kept in alike:
            shorter = min(len(kept.ids), len(new.ids))
            if _shared(kept.ids, new.ids, shorter) < shorter or (windowed and len(kept.ids) != len(new.ids)):
                continue
            if shorter == len(new.ids):
                return
            self.kept.remove(kept)
        self.kept.append(new)
        del self.kept[:-MAX_SEQUENCES]

    def drop(self) -> bool:
        """Evict the least recently used sequence; returns whether there was one."""
        if self.kept:
            del self.kept[0]
            return True
        return False

    def _used(self, kept: Kept) -> None:
        if kept in self.kept:
            self.kept.remove(kept)
            self.kept.append(kept)


def shared_length(some: Sequence[int], others: Sequence[int]) -> int:
    """Length of the common prefix of two texts in ids."""
    return _shared(np.asarray(some, np.int64), np.asarray(others, np.int64), len(some))


def _shared(kept: np.ndarray, ids: np.ndarray, limit: int) -> int:
    """Length of the common prefix of two texts, up to a limit."""
    count = min(len(kept), len(ids), limit)
    differ = np.flatnonzero(kept[:count] != ids[:count])
    return int(differ[0]) if len(differ) else count


def _difference(kept: np.ndarray, ids: np.ndarray, longest: int, used: int) -> str:
    """Why no longer prefix of a prompt was found, in a clause for the user."""
    if used < longest:
        return f"the windows of what is cached no longer reach back to token {longest}"
    if longest < min(len(kept), len(ids)):
        return f"token {longest} is {ids[longest]}, but {kept[longest]} is cached"
    return f"only its first {longest} tokens were read before" if longest else "nothing that begins like it was read before"
