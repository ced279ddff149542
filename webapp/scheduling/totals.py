"""What the engine threads have done since the start: plain numbers, changed under the scheduler's lock."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.tally import BATCH_PAIRS, BATCH_TOKENS, SHARES, Tally


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
    pairs_a_batch: Tally = field(default_factory=lambda: Tally(BATCH_PAIRS))
    tokens_a_batch: Tally = field(default_factory=lambda: Tally(BATCH_TOKENS))
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
