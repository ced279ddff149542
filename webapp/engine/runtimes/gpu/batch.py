"""Batches for the GPU: sequences one after the other, some of which share the tokens they begin with. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Lengths = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences one after the other: first those that are scored, then beginnings that some of them share."""

    ids: Ints
    """Token ids, shape [tokens]."""
    positions: Ints
    """Position of each token, shape [tokens]. A sequence with a shared beginning goes on counting where that ends."""
    types: Ints
    """Token types, shape [tokens]."""
    starts: Ints
    """Where each sequence begins, and the end of the last, shape [sequences + 1]."""
    seen_starts: Ints
    """Where each sequence begins in `seen`, and the end of the last, shape [sequences + 1]."""
    seen: Ints | None
    """Tokens that each sequence attends to, its beginning's first, shape [seen_starts[-1]]; None: its own."""
    rows: int
    """Sequences that are scored."""
    longest: int
    """Tokens of the longest sequence."""
    longest_seen: int
    """Tokens that the one with the most attends to."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.ids)

    @property
    def beginnings(self) -> int:
        """Beginnings that are shared."""
        return len(self.starts) - 1 - self.rows


def pack_whole(ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any], pad: int = -1) -> PackedBatch:
    """Pack rows that share nothing.

    Args:
        ids: token ids, shape [rows, length]; rows are padded at their end.
        mask: 0 for padding.
        types: token types.
        pad: an id that is not counted in positions, and has position 0, as RoBERTa's padding; -1: there is none.
    """
    real = mask != 0
    lengths = real.sum(axis=1)
    if pad < 0:
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    else:
        counted = real & (ids != pad)
        places = counted.cumsum(axis=1) * counted
    starts = _starts(lengths)
    longest = int(lengths.max())
    flat_ids, flat_places, flat_types = (each[real].astype(np.int32) for each in (ids, places, types))
    return PackedBatch(flat_ids, flat_places, flat_types, starts, starts, None, len(ids), longest, longest)


def pack_sharing(ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any]) -> PackedBatch:
    """Pack rows of a decoder, and compute once what several of them begin with.

    Args:
        ids: token ids, shape [rows, length]; rows are padded at their end.
        mask: 0 for padding.
        types: 0 for the first tokens of a row, which other rows may begin with, too.
    """
    lengths = (mask != 0).sum(axis=1)
    later = (types != 0) & (mask != 0)
    # The last token is scored, so it is a row's own in any case.
    shared = np.minimum(np.where(later.any(axis=1), later.argmax(axis=1), lengths), lengths - 1)
    numbers: dict[bytes, int] = {}
    beginnings: list[Ints] = []
    used: list[int] = []
    begins_with = []
    for row, length in zip(ids, shared, strict=True):
        beginning = row[:length].astype(np.int32)
        number = numbers.setdefault(beginning.tobytes(), len(beginnings))
        if number == len(beginnings):
            beginnings.append(beginning)
            used.append(0)
        used[number] += 1
        begins_with.append(number)
    # One that a single row has is worth no sequence of its own, and neither is an empty one.
    kept = [number for number, count in enumerate(used) if count > 1 and len(beginnings[number])]
    if not kept:
        return pack_whole(ids, mask, np.zeros_like(types))
    place = {number: index for index, number in enumerate(kept)}
    begin = np.array([place.get(number, -1) for number in begins_with])
    own = [
        row[(shared[index] if begin[index] >= 0 else 0) : lengths[index]].astype(np.int32)
        for index, row in enumerate(ids)
    ]
    return _with_beginnings(own, [beginnings[number] for number in kept], begin)


def _with_beginnings(own: Sequence[Ints], beginnings: Sequence[Ints], begin: NDArray[np.int64]) -> PackedBatch:
    """Pack what rows don't share, then what they do.

    Args:
        own: tokens of each row, without its beginning if it shares one.
        beginnings: what is shared.
        begin: the beginning of each row; -1: it shares none.
    """
    rows, parts = len(own), [*own, *beginnings]
    lengths = np.array([len(part) for part in parts])
    starts = _starts(lengths)
    before, before_starts = np.zeros_like(lengths), np.zeros_like(lengths)
    sharing = np.flatnonzero(begin >= 0)
    before[sharing] = lengths[rows + begin[sharing]]
    before_starts[sharing] = starts[rows + begin[sharing]]
    runs = np.stack([before_starts, starts[:-1]], axis=1), np.stack([before, lengths], axis=1)
    ids = np.concatenate(parts)
    return PackedBatch(
        ids,
        _runs(before, lengths),
        np.zeros_like(ids),
        starts,
        _starts(before + lengths),
        _runs(runs[0].reshape(-1), runs[1].reshape(-1)),
        rows,
        int(lengths.max()),
        int((before + lengths).max()),
    )


def _starts(lengths: Lengths) -> Ints:
    """Return where each sequence begins, and the end of the last."""
    starts = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _runs(firsts: Lengths, lengths: Lengths) -> Ints:
    """Return first, first + 1, ... of each run, one run after the other."""
    offsets = np.cumsum(lengths) - lengths
    runs: Ints = (np.arange(int(lengths.sum())) + np.repeat(firsts - offsets, lengths)).astype(np.int32)
    return runs
