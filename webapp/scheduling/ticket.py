"""One admitted request on its way through the engine threads."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import RerankError
from webapp.scheduling.phases import Phases

CHARS_PER_TOKEN = 4
"""Rough size of a token, for work that is not tokenised yet."""

PAIR_CHARS = 32
"""What a pair takes beside its document: a query, special tokens, padding."""


def weigh(documents: Iterable[str], longest_chars: int) -> int:
    """Characters to be read of these documents, with what a pair takes beside."""
    return sum([min(len(text), longest_chars) + PAIR_CHARS for text in documents])


class Ticket:
    """A query, its documents, and how far they are.

    The scheduler changes a ticket only under its lock, but for `logits`, `lengths`, `truncated` and `token_ids`: each
    place of those is written by the one engine thread that holds the pair.
    """

    __slots__ = (
        "client",
        "deadline",
        "documents",
        "encoded_query",
        "error",
        "lengths",
        "logits",
        "longest_chars",
        "number",
        "on_done",
        "phases",
        "priority",
        "query",
        "ready",
        "ready_tokens",
        "scored",
        "token_ids",
        "truncated",
        "unread",
        "unread_chars",
    )

    def __init__(
        self,
        number: int,
        query: str,
        documents: Sequence[str],
        on_done: Callable[[], None],
        priority: int = 0,
        *,
        deadline: float = math.inf,
        longest_chars: int = sys.maxsize,
        client: str = "",
    ) -> None:
        self.number = number
        """Order of arrival."""
        self.priority = priority
        """Lower goes first."""
        self.deadline = deadline
        """Monotonic time after which none of its pairs is scored; changed by `Scheduler.put_off` alone."""
        self.client = client
        """Whose request it is; clients share the engine equally."""
        self.longest_chars = longest_chars
        """What is read of a document, roughly; the rest is cut."""
        self.query = query
        self.documents = documents
        self.on_done = on_done
        self.encoded_query: Any = None
        self.token_ids: list[Any] = [None] * len(documents)
        self.logits: NDArray[np.float32] = np.zeros(len(documents), np.float32)
        self.lengths: NDArray[np.int32] = np.zeros(len(documents), np.int32)
        """Tokens of each pair, padding not counted."""
        self.truncated: NDArray[np.bool_] = np.zeros(len(documents), np.bool_)
        self.ready: dict[int, list[int]] = {}
        """Padded length in tokens -> the tokenised pairs of that length that wait for a batch."""
        self.ready_tokens = 0
        self.unread = 0
        """The first document that nobody has begun to tokenise."""
        self.unread_chars = weigh(documents, longest_chars)
        self.scored = 0
        self.error: RerankError | None = None
        self.phases = Phases()
        """Where its time goes."""

    @property
    def succeeded(self) -> bool:
        """Every pair was scored."""
        return self.error is None and self.scored == len(self.documents)

    @property
    def waits(self) -> bool:
        """Whether there is something of it that no engine thread has in hand."""
        return bool(self.ready) or self.unread < len(self.documents)

    @property
    def remaining_tokens(self) -> int:
        """Padded tokens that wait for an engine thread; an estimate while documents are unread."""
        return self.ready_tokens + self.unread_chars // CHARS_PER_TOKEN

    def __repr__(self) -> str:
        return (
            f"<Ticket {self.number} {self.scored}/{len(self.documents)} scored, {self.unread} read,"
            f" {sum(map(len, self.ready.values()))} ready{', failed' if self.error else ''}>"
        )
