"""What the engine threads have done since the start: plain numbers, changed under the scheduler's lock."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    shapes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(rows, padded length) -> batches of it; few, by the laws of `batching`."""

    def add_batch(self, rows: int, length: int) -> None:
        """A batch of so many pairs, padded to so many tokens each, was scored."""
        self.pairs += rows
        self.batches += 1
        self.batch_tokens += rows * length
        shape = rows, length
        self.shapes[shape] = self.shapes.get(shape, 0) + 1
