"""How often a figure fell into which range: a histogram of plain numbers, cheap enough for every batch. PURE."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DOCUMENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
REQUEST_TOKENS = (64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
BATCH_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class BucketCounts:
    """Counts by range; whoever publishes it reads differences."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        """Upper ends of the ranges, themselves included."""
        self.counts = [0] * (len(bounds) + 1)
        """One a range; the last holds what is larger than all bounds."""
        self.total = 0.0

    def add(self, figure: float, times: int = 1) -> None:
        """So often."""
        self.counts[bisect_left(self.bounds, figure)] += times
        self.total += figure * times
