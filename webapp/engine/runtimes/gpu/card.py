"""The card that this process computes on: whether torch can use it, in words, and what is done when its memory is full.

All of it starts CUDA, so none of it may be called in a process that is forked later.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.config.cards import cards, driver, obstacle
from webapp.domain.concurrency import allocate_lock
from webapp.domain.errors import EngineFailedError, EngineLostError, SetupError, reason_of

log = logging.getLogger(__name__)

BATCHES_AT_ONCE = 2
"""Batches that threads may have in hand: one is computed while the next is written."""

MOST_TOKENS = 2**30
"""No batch has more."""

TRIED_AGAIN = 256
"""After so many batches larger ones are tried again: what took the memory may be gone, such as another release."""

CONTEXT_BYTES = 600 * 1024**2
"""What CUDA itself takes of a card for a process, and torch does not count."""

Compute = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]


def find_device() -> torch.device:
    """Return the card, or the CPU where there is none.

    Raises:
        SetupError: there is a card, and torch can't use it.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        if obstacle():
            return torch.device("cpu")
        why = next((str(each.message).splitlines()[0] for each in said), "it does not say why")
        raise _unusable(why, f"update NVIDIA's driver, which is {driver()}")
    try:
        one = torch.ones(1, device="cuda")
        (one + one).item()  # a build of torch may have no code for this card
    except torch.cuda.OutOfMemoryError as error:
        raise _unusable("its memory is full", "end what else computes on it") from error
    except RuntimeError as error:
        raise _unusable(reason_of(error), "install a torch that is built for this card") from error
    torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new shape, 90 ms each
    return torch.device("cuda")


def reference_device(engine: str) -> torch.device:
    """Return where a model's own scores are computed, for an engine as the settings name it: on a card if one works."""
    try:
        return find_device() if engine in ("auto", "torch") and cards() else torch.device("cpu")
    except SetupError:
        return torch.device("cpu")


def reset_card_bytes() -> None:
    """Give back what nothing needs, and count anew for `card_bytes`."""
    gc.collect()  # an engine is a cycle of objects
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def card_bytes(engine: str) -> int:
    """Return the most memory of the card that this process had since `reset_card_bytes`; 0: its engine uses none."""
    if engine != "torch" or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.max_memory_reserved()) + CONTEXT_BYTES


def _unusable(why: str, remedy: str) -> SetupError:
    found = cards()
    name = found[0].name if found else "the card"
    return SetupError(
        f"torch {torch.__version__} can't use {name} ({why}); {remedy}, or set RERANK_ENGINE to native, which computes"
        " on the processor"
    )


class WithinMemory:
    """Computes a batch in halves where the card has no memory for the whole."""

    def __init__(self, compute: Compute, most_tokens: int = 0) -> None:
        """Take what computes, and tokens that surely fit; 0: nothing is known."""
        self._compute = compute
        self.most_tokens = most_tokens
        """Tokens that a batch may have for now; 0: any number."""
        self._lock = allocate_lock()
        self._batches = 0

    def __call__(self, input_ids: NDArray[Any], mask: NDArray[Any], types: NDArray[Any]) -> NDArray[Any]:
        """Return the output of a batch, shape [rows, width], of three arrays of shape [rows, length].

        Raises:
            EngineFailedError: there is no memory for one row.
            EngineLostError: the card answers no more.
        """
        tokens, rows = int(np.count_nonzero(mask)), len(input_ids)
        most = self._most_now()
        if most and tokens > most and rows > 1:
            return self._in_halves(input_ids, mask, types)
        try:
            return self._compute(input_ids, mask, types)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if rows == 1:
                raise EngineFailedError("the card has no memory for this text") from error
            self._lower(tokens // 2)
        except RuntimeError as error:
            raise_if_lost(error)
            raise
        return self._in_halves(input_ids, mask, types)

    def _in_halves(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        middle = len(arrays[0]) // 2
        halves = [self(*(each[part] for each in arrays)) for part in (slice(middle), slice(middle, None))]
        return np.concatenate(halves)

    def _most_now(self) -> int:
        with self._lock:
            self._batches += 1
            if self.most_tokens and self._batches >= TRIED_AGAIN:
                self._batches = 0
                self.most_tokens = min(2 * self.most_tokens, MOST_TOKENS)
            return self.most_tokens

    def _lower(self, tokens: int) -> None:
        with self._lock:
            if not self.most_tokens or tokens < self.most_tokens:
                self.most_tokens = tokens
                log.warning(
                    "the card has no memory for a batch: for now at most %d tokens are computed at once", tokens
                )
            self._batches = 0


def raise_if_lost(error: RuntimeError) -> None:
    """End this thread if CUDA can't compute any more in this process, as after a fault of the card.

    Raises:
        EngineLostError: it can't.
    """
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise EngineLostError(f"the card can't be used any more ({reason_of(error)})") from error
