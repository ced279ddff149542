"""What the engine threads have done since the start: batches, failures, and where their time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from webapp.scheduling.batching import LENGTH_STEP, ROWS


@dataclass(slots=True)
class Totals:
    """Figures that only grow; changed under the scheduler's lock.

    Each engine thread tokenises, scores or waits, from its first call on: the three sums of seconds grow together by as
    many seconds a second as there are threads.
    """

    pairs: int = 0
    batches: int = 0
    batch_tokens: int = 0
    """Tokens that the engine computed: padding counts where it pads."""
    failures: int = 0
    """Batches and chunks that the engine could not do."""
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(rows, tokens rounded up to a multiple, so that there are few) -> batches of it."""
    tokenising_s: float = 0.0
    """Seconds that engine threads tokenised, added up over the threads."""
    scoring_s: float = 0.0
    """The same of scoring."""
    waiting_s: float = 0.0
    """The same of waiting, for work or until fewer batches are in hand."""
    device_busy_s: float = 0.0
    """Seconds in which at least one batch was in hand: not a sum over threads."""
    threads: int = 0
    """Engine threads; 0 until the first of them asks for work."""
    chunks_at_work: int = 0
    """Chunks in engine threads' hands."""
    batches_at_work: int = 0
    """Batches in engine threads' hands."""
    _since: float = 0.0
    """Everything before this monotonic time is booked."""

    def change(self, now: float, *, chunks: int = 0, batches: int = 0) -> None:
        """Book the time since the last change; then an engine thread takes a piece (1), or is done with it (-1)."""
        spent = now - self._since
        self._since = now
        self.tokenising_s += spent * self.chunks_at_work
        self.scoring_s += spent * self.batches_at_work
        self.waiting_s += spent * (self.threads - self.chunks_at_work - self.batches_at_work)
        if self.batches_at_work:
            self.device_busy_s += spent
        self.chunks_at_work += chunks
        self.batches_at_work += batches

    def add_batch(self, rows: int, tokens: int, multiple: int) -> None:
        """Record a batch of so many pairs and tokens, rounded up to a multiple for `sizes`."""
        self.pairs += rows
        self.batches += 1
        self.batch_tokens += tokens
        if rows > ROWS[-1]:  # a GPU's, which may have any number: exact ones would be thousands of sizes
            rows = round(rows / LENGTH_STEP) * LENGTH_STEP
        size = rows, -(-tokens // multiple) * multiple
        self.sizes[size] = self.sizes.get(size, 0) + 1
