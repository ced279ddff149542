"""Forward passes of fixed sizes, recorded on a card (CUDA graphs): to replay one starts all of its kernels at once."""

from __future__ import annotations

import logging
from typing import Any

import torch

from webapp.domain.errors import reason_of
from webapp.engine.runtimes.gpu.batch import PackedBatch, pack_sharing, pack_whole
from webapp.engine.runtimes.gpu.graph import Graph, Inputs
from webapp.engine.runtimes.gpu.sizes import Size, example_of, fill, graph_sizes

log = logging.getLogger(__name__)

TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Tokens of the passes that are recorded. Beyond these the host starts kernels faster than they run."""


class Recorded:
    """A forward pass of one size."""

    def __init__(
        self, graph: Graph, size: Size, example: PackedBatch, one_each: torch.Tensor, *, stream: Any, pool: Any
    ) -> None:
        """Record it.

        Args:
            graph: the model.
            size: what the pass has room for.
            example: a batch that fits.
            one_each: see `Graph`.
            stream: of all passes, so that one is computed after the other.
            pool: memory that passes share, which therefore must not run at once; None: a new one.
        """
        buffer = torch.zeros(size.offsets[-1], dtype=torch.int32)
        fill(buffer.numpy(), example, size)
        self.inputs = buffer.to(one_each.device)
        self._one_each = one_each  # the pass reads it where it lies
        given = views(self.inputs, size, size.longest, size.longest)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph(given, one_each)
        stream.synchronize()
        self._recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._recorded, pool=pool, stream=stream):
            self._out = graph(given, one_each)
        self.pool = self._recorded.pool()

    def replay(self) -> torch.Tensor:
        """Compute what lies in `inputs`; return the output, which the next replay overwrites."""
        self._recorded.replay()
        return self._out


def record(graph: Graph, one_each: torch.Tensor, stream: Any, longest_row: int) -> dict[Size, Recorded]:
    """Return passes of all sizes that the card has memory for. The largest is first: the others find its memory."""
    recorded: dict[Size, Recorded] = {}
    pool = None
    for size in reversed(graph_sizes(TOKENS, shares=graph.shares)):
        try:
            example = example_batch(size, longest_row)
            recorded[size] = made = Recorded(graph, size, example, one_each, stream=stream, pool=pool)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            log.warning("the card has no memory to record batches of %d tokens; they take longer", size.tokens)
            continue
        except RuntimeError as error:
            log.warning("this card or torch can't record a pass, so small batches take longer: %s", reason_of(error))
            stream.synchronize()
            break
        pool = made.pool
    return recorded


def example_batch(size: Size, longest_row: int) -> PackedBatch:
    """Return a batch that fits into a size, of rows that are no longer than this."""
    example = example_of(size, longest_row)
    return pack_sharing(*example) if size.seen else pack_whole(*example)


def views(buffer: torch.Tensor, size: Size, longest: int, longest_seen: int) -> Inputs:
    """Return what `fill` wrote into a buffer."""
    ids, positions, types, starts, seen_starts, seen = (
        buffer[offset : offset + count] for offset, count in zip(size.offsets, size.parts, strict=False)
    )
    if not size.seen:
        return Inputs(ids, positions, types, starts, starts, None, size.rows, longest, longest_seen)
    return Inputs(ids, positions, types, starts, seen_starts, seen, size.rows, longest, longest_seen)
