"""Where a ticket's time goes. Plain state, changed under the scheduler's lock; every method is told the time.

A moment belongs to one phase: scoring while an engine thread has pairs of the ticket in a batch, else tokenising while
one reads its documents, else waiting. So the three add up to the ticket's life, however many threads are at it.
"""

from __future__ import annotations


class Phases:
    """Seconds that a ticket has waited, was tokenised, was scored."""

    __slots__ = ("batches", "chunks", "score_s", "since", "tokenise_s", "waited_s")

    def __init__(self, since: float = 0.0) -> None:
        self.since = since
        """Up to here everything is booked; monotonic."""
        self.waited_s = self.tokenise_s = self.score_s = 0.0
        self.chunks = self.batches = 0
        """Pieces in engine threads' hands."""

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
