"""What the engine threads have done since the start: plain numbers, changed under the scheduler's lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Tally:
    """How often a figure fell into which range. Cheap enough for every batch; who publishes it reads differences."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        """Upper ends of the ranges, themselves included."""
        self.counts = [0] * (len(bounds) + 1)
        """One a range; the last holds what is larger than all bounds."""
        self.total = 0.0

    def add(self, figure: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, figure)] += 1
        self.total += figure


@dataclass(slots=True)
class Totals:
    """What was scored since the start."""

    pairs: int = 0
    batches: int = 0
    batch_tokens: int = 0
    """Padded."""
    expired_pairs: int = 0
    """Left the queue because their deadline passed."""
    failures: int = 0
    """Batches and chunks that the engine could not do."""
    pairs_a_batch: Tally = field(default_factory=lambda: Tally(PAIRS))
    tokens_a_batch: Tally = field(default_factory=lambda: Tally(TOKENS))
    """Padded."""
    fill: Tally = field(default_factory=lambda: Tally(SHARES))
    """Share of a batch's tokens that are no padding."""

    def add_batch(self, pairs: int, length: int, tokens: int) -> None:
        """A batch was scored.

        Args:
            pairs: its rows.
            length: tokens each was padded to.
            tokens: those of all pairs, padding not counted.
        """
        padded = pairs * length
        self.pairs += pairs
        self.batches += 1
        self.batch_tokens += padded
        self.pairs_a_batch.add(pairs)
        self.tokens_a_batch.add(padded)
        self.fill.add(tokens / padded)
