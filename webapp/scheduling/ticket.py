"""One admitted request on its way through the engine threads, and where its time goes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import RerankError

CHARS_PER_TOKEN = 4
"""Rough size of a token, for work that is not tokenised yet."""

PAIR_CHARS = 32
"""What a pair takes beside its document: a query, special tokens, padding."""


def weigh(documents: Iterable[str], longest_chars: int) -> int:
    """Return the characters to be read of these documents, with what each pair takes beside."""
    return sum([min(len(text), longest_chars) + PAIR_CHARS for text in documents])


@dataclass(slots=True)
class Phases:
    """Seconds that a ticket waited, was tokenised, was scored. Changed under the scheduler's lock.

    A moment belongs to one phase: scoring while an engine thread has pairs of the ticket in a batch, else tokenising
    while a thread reads its documents, else waiting. So the three add up to the ticket's life, however many threads
    work on it.
    """

    since: float = 0.0
    """Everything before this monotonic time is booked."""
    waited_s: float = 0.0
    tokenise_s: float = 0.0
    score_s: float = 0.0
    chunks: int = 0
    """Chunks in engine threads' hands."""
    batches: int = 0
    """Batches in engine threads' hands."""

    def change(self, now: float, *, chunks: int = 0, batches: int = 0) -> None:
        """Book the time since the last change; then an engine thread takes a piece (1), or is done with it (-1)."""
        spent = now - self.since
        self.since = now
        if self.batches:
            self.score_s += spent
        elif self.chunks:
            self.tokenise_s += spent
        else:
            self.waited_s += spent
        self.chunks += chunks
        self.batches += batches

    def waiting_s(self, now: float) -> float:
        """Return how long a ticket that waits now has waited in all; 0 if an engine thread has a part of it in hand."""
        return 0.0 if self.chunks or self.batches else self.waited_s + now - self.since


@dataclass(slots=True, eq=False, repr=False)
class Ticket:
    """A query, its documents, and how far they are.

    The scheduler changes a ticket only under its lock, but for `logits`, `lengths`, `truncated` and `token_ids`: each
    place of those is written by the one engine thread that holds the pair.
    """

    number: int
    """Order of arrival."""
    query: str
    documents: Sequence[str]
    on_done: Callable[[], None]
    instruction: str = ""
    """Empty: the model's default."""
    priority: int = 0
    """Lower goes first."""
    deadline: float = math.inf
    """Monotonic time after which none of its pairs is scored; changed by `Scheduler.extend_deadline` alone."""
    longest_chars: int = sys.maxsize
    """What is read of a document, roughly; the rest is cut."""
    client: str = ""
    """The caller; clients share the engine equally."""
    encoded_query: Any = None
    token_ids: list[Any] = field(init=False)
    logits: NDArray[np.float32] = field(init=False)
    lengths: NDArray[np.int32] = field(init=False)
    """Tokens of each pair, padding not counted."""
    truncated: NDArray[np.bool_] = field(init=False)
    ready: dict[int, list[int]] = field(default_factory=dict)
    """Length class in tokens -> the tokenised pairs of that length that wait for a batch."""
    ready_tokens: int = 0
    """What those cost the engine, which may pad them."""
    unread: int = 0
    """The first document that no thread has begun to tokenise."""
    unread_chars: int = field(init=False)
    scored: int = 0
    error: RerankError | None = None
    phases: Phases = field(default_factory=Phases)

    def __post_init__(self) -> None:
        count = len(self.documents)
        self.token_ids = [None] * count
        self.logits = np.zeros(count, np.float32)
        self.lengths = np.zeros(count, np.int32)
        self.truncated = np.zeros(count, np.bool_)
        self.unread_chars = weigh(self.documents, self.longest_chars)

    @property
    def succeeded(self) -> bool:
        """Whether every pair was scored."""
        return self.error is None and self.scored == len(self.documents)

    @property
    def waits(self) -> bool:
        """Whether there is something of it that no engine thread has in hand."""
        return bool(self.ready) or self.unread < len(self.documents)

    @property
    def remaining_tokens(self) -> int:
        """Tokens that wait for an engine thread; an estimate while documents are unread."""
        return self.ready_tokens + self.unread_chars // CHARS_PER_TOKEN

    def __repr__(self) -> str:
        return (
            f"<Ticket {self.number} {self.scored}/{len(self.documents)} scored, {self.unread} read,"
            f" {sum(map(len, self.ready.values()))} ready{', failed' if self.error else ''}>"
        )
