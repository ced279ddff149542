"""The packed runtime of torch: on a card for several engine threads, and on a processor, as the reference.

On a card one batch is computed while the next is written, and small batches are filled up to the sizes of recorded
passes (`recorded`). What is computed is the same on both, but for attention (`attention`).
"""

from __future__ import annotations

import logging
from _queue import SimpleQueue  # in a gunicorn worker, queue has one for greenlets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from webapp.config.cards import cards, obstacle, usable
from webapp.domain.concurrency import allocate_lock
from webapp.domain.errors import SetupError, reason_of
from webapp.engine.artifact import Precision, Tables, damaged
from webapp.engine.base import Forward
from webapp.engine.runtimes.gpu.attention import usable_attention
from webapp.engine.runtimes.gpu.batch import PackedBatch, pack_sharing, pack_whole
from webapp.engine.runtimes.gpu.card import BATCHES_AT_ONCE, WithinMemory, find_device
from webapp.engine.runtimes.gpu.graph import Graph
from webapp.engine.runtimes.gpu.recorded import TOKENS, Recorded, record, views
from webapp.engine.runtimes.gpu.sizes import Size, example_of, fill, graph_sizes
from webapp.engine.runtimes.packed import SIZES

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

STEP_TOKENS = 256
"""A batch that is larger than all recorded passes is filled up to a multiple: for odd sizes cuBLAS may take a product
that adds in another order, and a score would depend on its company by more."""

PROBE_TOKENS = 4096
"""A batch of so many tokens tells how much memory a token takes."""

LEAST_TOKENS = 1024
"""A card without memory for so many at once is too small for the model."""

KEPT_SHARE = 0.8
"""Of the card's free memory batches may take so much."""


class GpuRuntime:
    """A model's file, computed by torch. Started after the fork: CUDA survives none.

    Args:
        path: of the file, which `prepare.pack_floats` writes.
        precision: of its matrices.

    Raises:
        SetupError: the file is no model of ours.
    """

    padded = False

    def __init__(self, path: Path, precision: Precision) -> None:
        self._dtype = DTYPES[precision]
        try:
            # Mapped before the fork: workers share its pages, and read it even if another has its place by then.
            file: Any = safe_open(path, "pt")
            metadata = file.metadata() or {}
            self.shape: dict[str, Any] = {name: int(metadata[name]) for name in SIZES}
            self.shape["epsilon"] = float(metadata["epsilon"])
        except Exception as error:  # safetensors has an error of its own
            raise damaged(path, error) from error
        self._file = file
        positions = None if self.shape["rotaries"] else self.shape["positions"]
        self.tables = Tables(self.shape["vocabulary"], positions, self.shape["types"] or None)
        on_card = usable()
        self.most_batches = BATCHES_AT_ONCE if on_card else 0
        """Batches that threads may have in hand; 0: one each."""
        self.kernels = ", ".join(sorted({card.name for card in cards()})) if on_card else ""
        """The cards, whose scores differ in their last bits; empty: the processor computes."""

    def start(self, threads: int) -> None:
        """Load the weights; on a card also compile what is done element by element, and record passes.

        Raises:
            SetupError: torch can't use the card, or its memory is too small.
        """
        del threads
        device = find_device()
        try:
            tensors = {name: self._file.get_tensor(name).to(device) for name in self._file.keys()}  # noqa: SIM118
            attention = usable_attention(device, self._dtype, self.shape["dim"])
            self._graph = Graph(self.shape, tensors, self._dtype, attention)
            self._on_card = OnCard(self._graph, device) if device.type == "cuda" else None
        except torch.cuda.OutOfMemoryError as error:
            raise SetupError(
                f"RERANK_MODEL: the card has no memory for it ({reason_of(error)}); end what else computes on the"
                " card, or name a smaller model"
            ) from error
        if self._on_card is None:
            # Each engine thread computes on a core of its own. On a card nobody may say so: compiled code asks for this
            # number at each call, and is compiled again where it is another.
            torch.set_num_threads(1)
            if self._dtype != torch.float32:
                log.warning("no card computes here, and a processor is slow in 16 bits: %s", obstacle())

    def open(self) -> Forward:
        """Return the forward pass, which all threads share."""
        return self._on_card.compute if self._on_card else self._compute_here

    def _compute_here(self, input_ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any]) -> NDArray[Any]:
        batch = packed(self._graph, self.shape["pad"], input_ids, mask, types)
        size = Size.of(batch)
        buffer = torch.zeros(size.offsets[-1], dtype=torch.int32)
        fill(buffer.numpy(), batch, size)
        one_each = torch.arange(size.rows + 1, dtype=torch.int32)
        with torch.inference_mode():
            out: NDArray[Any] = self._graph(views(buffer, size, batch.longest, batch.longest_seen), one_each).numpy()
        return out


def packed(graph: Graph, pad: int, ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any]) -> PackedBatch:
    """Return rows of shape [rows, length] as a batch; see `batch`."""
    return pack_sharing(ids, mask, types) if graph.shares else pack_whole(ids, mask, types, pad)


def tokens_for(free_bytes: int, token_bytes: int) -> int:
    """Return the tokens that a batch may have. PURE.

    Raises:
        SetupError: they are too few.
    """
    tokens = int(free_bytes * KEPT_SHARE) // token_bytes
    if tokens < LEAST_TOKENS:
        raise SetupError(
            f"RERANK_MODEL: {free_bytes / 1e6:,.0f} MB of the card are free beside it, and {LEAST_TOKENS} tokens take"
            f" {LEAST_TOKENS * token_bytes / 1e6:,.0f} MB; end what else computes on the card, or name a smaller model"
        )
    return tokens


def pinned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor that a card reads and writes while the processor goes on."""
    return torch.zeros(shape, dtype=dtype, pin_memory=True)


class Slot:
    """Buffers of a batch on its way, which grow with the largest."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.host = self.there = torch.empty(0, dtype=torch.int32)
        self.done = torch.cuda.Event(blocking=True)

    def make_room(self, integers: int) -> None:
        """Have buffers of at least this size. On the stream that computes: else another may still write to them."""
        if len(self.host) < integers:
            there = torch.empty(integers, dtype=torch.int32, device=self._device)  # may fail: both stay as they are
            self.host, self.there = pinned(integers, dtype=torch.int32), there


class OnCard:
    """A model on a card, for several threads."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        """Compile, record passes, and measure how many tokens the memory has room for.

        Args:
            graph: the model, its weights on the card.
            device: the card.

        Raises:
            SetupError: too little memory is left beside the weights.
        """
        self._graph, self._device, self._pad = graph, device, graph.shape["pad"]
        self._longest_row = STEP_TOKENS if graph.shape["rotaries"] else min(STEP_TOKENS, graph.shape["positions"])
        self._lock = allocate_lock()
        self._stream = torch.cuda.Stream()
        self._slots: SimpleQueue[Slot] = SimpleQueue()
        for _ in range(BATCHES_AT_ONCE):
            self._slots.put(Slot(device))
        self._recorded: dict[Size, Recorded] = {}
        self._one_each = torch.arange(max(TOKENS) + 1, dtype=torch.int32, device=device)
        self._stream.wait_stream(torch.cuda.current_stream())  # where the weights were loaded
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        with torch.inference_mode():
            self._compile()
            token_bytes = self._measure()
            if graph.is_recordable:
                self._recorded = record(graph, self._one_each, self._stream, self._longest_row)
        torch.cuda.empty_cache()
        self.compute = WithinMemory(self._compute, tokens_for(torch.cuda.mem_get_info()[0], token_bytes))
        """Takes ids, mask and types of shape [rows, length], returns [rows, width]; any thread may call it."""

    def _compile(self) -> None:
        """Compile what is done element by element; without a C compiler it is done as it is."""
        sizes = graph_sizes(TOKENS[:4], shares=self._graph.shares)
        examples = [example_of(size, self._longest_row) for size in (sizes[0], sizes[-1])]
        try:
            self._graph.compile()
            for example in examples:
                self._compute(*example)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - of dynamo, triton, a compiler: each has its own
            log.warning("nothing is compiled for the card, which makes it slower: %s", reason_of(error))
            self._graph.compile_nothing()
        self._graph.stop_marking()
        for example in examples:
            self._compute(*example)

    def _measure(self) -> int:
        """Return the bytes that a token of a batch takes; no pass is recorded yet."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        rows = np.ones((PROBE_TOKENS // self._longest_row, self._longest_row), np.int32)
        # Of a decoder, which has no table of types, ones say that the rows share nothing.
        self._compute(rows, rows, np.full_like(rows, self._graph.shares))
        return max(1, int(torch.cuda.max_memory_allocated() - before) // rows.size)

    def _compute(self, input_ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any]) -> NDArray[Any]:
        batch = packed(self._graph, self._pad, input_ids, mask, types)
        own = Size.of(batch)
        fitting = min((size for size in self._recorded if size.holds(own)), default=None)
        size = fitting or replace(own, tokens=-(-own.tokens // STEP_TOKENS) * STEP_TOKENS)
        slot = self._slots.get()
        try:
            with torch.cuda.stream(self._stream):
                slot.make_room(size.offsets[-1])
            fill(slot.host.numpy(), batch, size)
            with self._lock, torch.inference_mode(), torch.cuda.stream(self._stream):
                out = self._launch(slot, batch, size, self._recorded[fitting] if fitting else None)
                here = pinned(*out.shape, dtype=torch.float32)
                here.copy_(out, non_blocking=True)
                slot.done.record(self._stream)
            slot.done.synchronize()
        except BaseException:
            self._stream.synchronize()  # what was begun still reads the slot
            raise
        else:
            found: NDArray[Any] = here.numpy()
            return found
        finally:
            self._slots.put(slot)

    def _launch(self, slot: Slot, batch: PackedBatch, size: Size, recorded: Recorded | None) -> torch.Tensor:
        """Start the computation; return what the rows' output will be."""
        end = size.offsets[-1]
        if recorded is not None:
            recorded.inputs.copy_(slot.host[:end], non_blocking=True)
            return recorded.replay()[: batch.rows]
        slot.there[:end].copy_(slot.host[:end], non_blocking=True)
        if len(self._one_each) <= size.rows:
            self._one_each = torch.arange(2 * size.rows + 1, dtype=torch.int32, device=self._device)
        return self._graph(views(slot.there, size, batch.longest, batch.longest_seen), self._one_each)
