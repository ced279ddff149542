"""Attention within packed sequences: torch's flash attention on a GPU, padding and a mask elsewhere.

This is all that differs between a GPU and a CPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from torch import Tensor


class Window(NamedTuple):
    """How many tokens before and after its own a token sees; -1: all."""

    before: int
    after: int


EVERYTHING = Window(-1, -1)
CAUSAL = Window(-1, 0)


class Sequences(NamedTuple):
    """Where sequences lie in queries, and in keys and values."""

    starts: Tensor
    """int32, where each sequence begins in the queries, and the end of the last."""
    seen_starts: Tensor
    """The same in keys and values. The last query of a sequence stands at its last key."""
    longest: int
    """No sequence has more queries."""
    longest_seen: int
    """No sequence has more keys."""


Attention = Callable[[Tensor, Tensor, Tensor, Sequences, Window], Tensor]
"""Queries [tokens, heads, dim], keys and values [tokens, heads of keys, dim], where sequences lie, what a token sees ->
[tokens, heads, dim]. Products of queries and keys are divided by the root of dim."""

_PRIVATE = (
    *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"),
    "return_debug_mask",
)
_PRIVATE_NAMED = {"window_size_left", "window_size_right"}


def public_attention() -> Attention | None:
    """Return torch's documented function; None: this torch has none that knows windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch
    except ImportError:
        return None
    known = set(inspect.signature(varlen_attn).parameters)
    if "window_size" not in known:
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor, at: Sequences, window: Window) -> Tensor:
        grouped = {"enable_gqa": True} if "enable_gqa" in known and q.shape[1] != k.shape[1] else {}
        out: Tensor = varlen_attn(q, k, v, *at, window_size=tuple(window), **grouped)
        return out

    return attend


def private_attention() -> Attention | None:
    """Return the operator below torch's documented function; None: its arguments are others than those known here."""
    try:
        operator = torch.ops.aten._flash_attention_forward.default  # noqa: SLF001 - the arguments are checked
    except AttributeError:
        return None
    arguments = [argument.name for argument in operator._schema.arguments]  # noqa: SLF001
    count = len(_PRIVATE)
    if tuple(arguments[:count]) != _PRIVATE or not set(arguments[count:]) >= _PRIVATE_NAMED:
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor, at: Sequences, window: Window) -> Tensor:
        local = window not in (EVERYTHING, CAUSAL)
        sides = {"window_size_left": window.before, "window_size_right": window.after} if local else {}
        out: Tensor = operator(q, k, v, *at, 0.0, window == CAUSAL, False, **sides)[0]
        return out

    return attend


def plain_attention(q: Tensor, k: Tensor, v: Tensor, at: Sequences, window: Window) -> Tensor:
    """Compute it with padding and a mask, sequences of similar length at once: where flash attention is not usable.

    What belongs to no sequence becomes NaN, so that tests see who reads it.
    """
    out = torch.full_like(q, torch.nan)
    lengths, seen_lengths = at.starts.diff(), at.seen_starts.diff()
    for rows in _similar(lengths, seen_lengths):
        own = _places(at.starts[:-1][rows], lengths[rows])
        seen = _places(at.seen_starts[:-1][rows], seen_lengths[rows])
        # The last query stands at the last key.
        first = (seen_lengths - lengths)[rows, None, None]
        distance = torch.arange(seen[0].shape[1], device=q.device) - first
        distance = distance - torch.arange(own[0].shape[1], device=q.device)[:, None]
        sees = seen[1][:, None, :]
        if window.before >= 0:
            sees = sees & (distance >= -window.before)
        if window.after >= 0:
            sees = sees & (distance <= window.after)
        padded_q, padded_k, padded_v = (_padded(x, *there) for x, there in ((q, own), (k, seen), (v, seen)))
        grouped = q.shape[1] != k.shape[1]
        found = F.scaled_dot_product_attention(
            padded_q, padded_k, padded_v, attn_mask=sees[:, None], enable_gqa=grouped
        )
        places, real = own
        out[places[real]] = found.transpose(1, 2)[real]
    return out


def _similar(lengths: Tensor, seen_lengths: Tensor) -> list[Tensor]:
    """Return the numbers of sequences, in groups: its longest attends to at most twice the shortest's tokens."""
    exponents = torch.frexp(seen_lengths.float())[1].cpu().where(lengths.cpu() > 0, -1)
    kinds = [int(each) for each in exponents.unique() if each >= 0]
    return [torch.nonzero(exponents == kind)[:, 0].to(lengths.device) for kind in kinds]


def _places(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the tokens of sequences lie, padded to the longest, and which are real; [sequences, longest]."""
    offsets = torch.arange(int(lengths.max()), device=starts.device)
    real = offsets < lengths[:, None]
    return torch.where(real, starts[:, None] + offsets, 0).long(), real


def _padded(x: Tensor, places: Tensor, real: Tensor) -> Tensor:
    """Return what lies at these places, and zeros; shape [sequences, heads, longest, dim]."""
    return torch.where(real[:, :, None, None], x[places], 0.0).transpose(1, 2)


LARGEST_DIFFERENCE = 0.02
"""Between flash attention in 16 bits and the plain one, of numbers of about 1."""


def usable_attention(device: torch.device, dtype: torch.dtype, dim: int) -> Attention:
    """Return what works on this card: tried, since no table knows every card and torch."""
    if device.type != "cuda" or dtype == torch.float32:
        return plain_attention
    starts = torch.tensor([0, 3, 8], dtype=torch.int32, device=device)
    x = torch.randn(8, 2, dim, dtype=dtype, device=device)
    asked = x, x, x, Sequences(starts, starts, 5, 5), Window(2, 0)
    expected = plain_attention(*asked)
    for way in (private_attention(), public_attention()):
        try:
            if way and (way(*asked) - expected).abs().max() < LARGEST_DIFFERENCE:
                return way
        except (RuntimeError, TypeError):
            continue
    return plain_attention
