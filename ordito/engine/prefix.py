"""What was read before and may be read again: sequences that stay when their requests are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST = 256
"""Sequences that are kept."""


@dataclass(eq=False)
class Kept:
    """A sequence that nobody writes to, and the tokens that it holds. Only its `user` may find it."""

    ids: np.ndarray
    sequence: Any
    user: str


@dataclass(frozen=True)
class Found:
    """A sequence that begins a prompt, and its length; where it is shorter than it might be, `missed` says why."""

    sequence: Any
    missed: str


class PrefixCache:
    """Finished sequences, the one used last standing last. Pages that they share with others are there once."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def find(self, prompt: Sequence[int], user: str, begun: Sequence[tuple[Sequence[int], Any, str]] = ()) -> Found:
        """The longest beginning of `prompt` that is there, less its last token, whose logits are still needed.

        `begun` are sequences that are still being read: their ids, which may go on, and their users. Where windows no longer
        hold what came before a place, a shorter sequence that does is taken.
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

    def keep(self, ids: Sequence[int], sequence: Any, user: str, *, windowed: bool) -> None:
        """Keep a sequence of these ids, from now on untouched. The longer of two that begin alike will do, but for windows."""
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
        del self.kept[:-MOST]

    def drop(self) -> bool:
        """Forget the sequence that was used longest ago; whether there was one."""
        if self.kept:
            del self.kept[0]
            return True
        return False

    def _used(self, kept: Kept) -> None:
        if kept in self.kept:
            self.kept.remove(kept)
            self.kept.append(kept)


def _shared(kept: np.ndarray, ids: np.ndarray, limit: int) -> int:
    """How many tokens two texts begin with alike, up to a limit."""
    count = min(len(kept), len(ids), limit)
    differ = np.flatnonzero(kept[:count] != ids[:count])
    return int(differ[0]) if len(differ) else count


def _difference(kept: np.ndarray, ids: np.ndarray, longest: int, used: int) -> str:
    """Why not more of a prompt was found."""
    if used < longest:
        return f"the windows of what is cached no longer reach back to token {longest}"
    if longest < min(len(kept), len(ids)):
        return f"token {longest} is {ids[longest]}, but {kept[longest]} is cached"
    return f"only its first {longest} tokens were read before" if longest else "nothing that begins like it was read before"
