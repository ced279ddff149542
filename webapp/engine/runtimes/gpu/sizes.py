"""Sizes that small batches are filled up to, so that a recorded pass computes them, and a buffer for them. PURE.

A recorded pass starts all of its kernels at once: the host takes up to 30 ms to start them one by one, and the device
less to run them. It computes one size only, so a batch is filled up: tokens belong to no sequence, sequences are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from webapp.engine.runtimes.gpu.batch import Ints, PackedBatch

ALIGN = 32
"""Integers. Compiled code takes a tensor that begins elsewhere for one of another kind."""

SHORT_TOKENS, LONG_TOKENS = 128, 512
"""Most tokens of a sequence where a size is for many short rows, and where it is for few long ones."""

LONGEST_TOKENS = 2048
"""A size of fewer tokens takes a single row of all of them."""

EXAMPLE_TOKENS = 64
"""Tokens of a row in an example."""

BEGINNINGS = 4
"""Beginnings that are shared in one batch of a graph."""


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """How much of each a batch may have."""

    tokens: int
    rows: int
    longest: int
    beginnings: int = 0
    seen: int = 0
    """Tokens that are attended to where beginnings are shared; 0: none are."""

    @staticmethod
    def of(batch: PackedBatch) -> Size:
        """Return a batch's own size."""
        seen = 0 if batch.seen is None else len(batch.seen)
        return Size(batch.tokens, batch.rows, batch.longest_seen, batch.beginnings, seen)

    def holds(self, other: Size) -> bool:
        """Return whether a batch of another size fits."""
        return (
            self.tokens >= other.tokens
            and self.rows >= other.rows
            and self.longest >= other.longest
            and self.beginnings >= other.beginnings
            and self.seen >= other.seen
            and bool(self.seen) == bool(other.seen)
        )

    @property
    def parts(self) -> tuple[int, ...]:
        """Integers of ids, positions, types, starts, seen_starts and seen."""
        sequences = self.rows + self.beginnings + 1
        return self.tokens, self.tokens, self.tokens, sequences, sequences, self.seen

    @property
    def offsets(self) -> list[int]:
        """Where each of `parts` begins in a buffer, and where the last one ends."""
        offsets = [0]
        for count in self.parts:
            offsets.append(offsets[-1] + -(-count // ALIGN) * ALIGN)
        return offsets


def graph_sizes(tokens: Sequence[int], *, shares: bool) -> list[Size]:
    """Return sizes for each of these numbers of tokens: few long rows, many short ones, and a mixture of both."""
    sizes = []
    for count in tokens:
        few, mixed, many = count // 64 + 4, count // 24, count // 16
        longest = count if count <= LONGEST_TOKENS else LONG_TOKENS
        sizes.append(Size(count, few, longest))
        sizes.append(Size(count, many, SHORT_TOKENS))
        if mixed > few:
            sizes.append(Size(count, mixed, LONG_TOKENS))
        if shares:
            sizes.append(Size(count, few, longest + LONG_TOKENS, BEGINNINGS, 2 * count))
            sizes.append(Size(count, many, LONG_TOKENS, BEGINNINGS, 8 * count))
    return sorted(sizes)


def fill(buffer: Ints, batch: PackedBatch, size: Size) -> None:
    """Write a batch into a buffer of a size: sequences at its end are empty, tokens at its end belong to none."""
    offsets, sequences = size.offsets, size.rows + size.beginnings
    for offset, values in zip(offsets, (batch.ids, batch.positions, batch.types), strict=False):
        buffer[offset : offset + batch.tokens] = values
        buffer[offset + batch.tokens : offset + size.tokens] = 0
    for offset, starts in zip(offsets[3:], (batch.starts, batch.seen_starts), strict=False):
        part = buffer[offset : offset + sequences + 1]
        part[: batch.rows] = starts[: batch.rows]
        part[batch.rows : size.rows] = starts[batch.rows]
        part[size.rows : size.rows + batch.beginnings + 1] = starts[batch.rows :]
        part[size.rows + batch.beginnings + 1 :] = starts[-1]
    if batch.seen is not None:
        seen = buffer[offsets[5] : offsets[5] + size.seen]
        seen[: len(batch.seen)] = batch.seen
        seen[len(batch.seen) :] = 0


def example_of(size: Size, longest_row: int = EXAMPLE_TOKENS) -> tuple[Ints, Ints, Ints]:
    """Return ids, mask and types of rows that fit into a size, none longer than this: what a pass is recorded with.

    They are in every model's tables: on a card a number past a table's end costs the process its CUDA.
    """
    length = max(2, min(size.longest // 2, longest_row, EXAMPLE_TOKENS, size.tokens // 2))
    rows = max(2 if size.seen else 1, min(size.rows, size.tokens // length - 1))
    ids = np.ones((rows, length), np.int32)
    types = np.zeros_like(ids)
    if size.seen:
        types[:, length // 2 :] = 1  # of a decoder, which has no table of them
    return ids, np.ones_like(ids), types
