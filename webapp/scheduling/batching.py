"""The plan of what an engine thread does next. PURE: reads the backlog, changes nothing.

Laws:
1. The lowest priority number leads; among equals less remaining work does, by orders of two, so that a small request
   passes a large one at the next batch; among equals in that too the client that was served less does, by rounds, so
   that many requests of one client don't hold up the few of another; then the older, so that at full load a document
   a little longer than others does not wait for all of them. `backlog` sorts so.
2. The oldest request leads at least every fourth plan, so that none starves, whatever its priority.
3. A batch costs what OpenVINO and torch pad it to: rows x longest. (The native engine pads nothing.) Pairs wait sorted
   by padded length (multiples of `LENGTH_STEP`), a batch takes from one length and spills only into nearby ones.
4. Few shapes: the engine keeps compiled code for every (rows, length) it meets, so rows come from `ROWS`.
5. A large request fills no batch of a small one: the small one would wait for pairs that are in no hurry.
6. A plan is never empty while there is work: a pair longer than the budget makes a batch of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from webapp.scheduling.ticket import Ticket

if TYPE_CHECKING:  # it takes the work out that is planned here
    from webapp.scheduling.backlog import Backlog

LENGTH_STEP = 16
"""Tokens. Exact lengths are no faster and let the engine's shape cache grow by more than a gigabyte."""

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256)

CHUNK_CHARS = 16_384
"""Tokenising this much takes a few milliseconds: the longest a batch waits behind it."""

READ_AHEAD_TOKENS = 65_536
"""A large request is tokenised this far ahead of its scoring: enough to fill batches of one length."""

SPILL = 0.8
"""A batch may hold pairs down to this share of its longest; more padding costs more than a smaller batch."""

WORTH_SHARING_TOKENS = 256
"""Less than this a thread does not share with busy threads: a batch of a few pairs is not worth it."""

PASSED_OVER_LIMIT = 3
"""Plans in a row that younger requests may lead."""


@dataclass(frozen=True, slots=True)
class TokeniseChunk:
    """Tokenise documents [start, stop) of a ticket."""

    ticket: Ticket
    start: int
    stop: int
    led_by_oldest: bool = True


@dataclass(frozen=True, slots=True)
class Pick:
    """`count` pairs of a ticket that wait at this padded length."""

    ticket: Ticket
    length: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Score these pairs in one forward pass."""

    picks: tuple[Pick, ...]
    length: int
    """Tokens each row is padded to."""
    led_by_oldest: bool = True


def padded(length_tokens: int) -> int:
    """Return the length a pair is padded to, in tokens."""
    return -(-length_tokens // LENGTH_STEP) * LENGTH_STEP


def plan_batch(
    backlog: Backlog, *, passed_over: int, budget_tokens: int, threads: int, idle: int = 0
) -> TokeniseChunk | Batch | None:
    """Decide what one engine thread does next.

    Args:
        backlog: every ticket that waits.
        passed_over: how many plans in a row were not led by the oldest.
        budget_tokens: cap on rows x longest of a batch.
        threads: engine threads that share the queue; of what is short each takes its part, not all that fits.
        idle: how many of the others have nothing to do.

    Returns:
        A plan, or None when other threads hold every ticket.
    """
    oldest = backlog.oldest
    if oldest is None:
        return None
    lead = oldest if passed_over >= PASSED_OVER_LIMIT else backlog.first
    if lead.unread < len(lead.documents) and (not lead.ready or lead.ready_tokens < READ_AHEAD_TOKENS):
        start, stop = _next_chunk(lead)
        return TokeniseChunk(lead, start, stop, lead is oldest)
    ready_tokens = backlog.small_ready_tokens + (0 if backlog.is_small(lead) else lead.ready_tokens)
    share_tokens = max(ready_tokens // threads, min(-(-ready_tokens // (1 + idle)), WORTH_SHARING_TOKENS))
    length = max(lead.ready)
    picks = _fill(lead, backlog, length, min(budget_tokens, share_tokens) // length)
    return Batch(picks, length, lead is oldest)


def _next_chunk(ticket: Ticket) -> tuple[int, int]:
    start = stop = ticket.unread
    chars = 0
    while stop < len(ticket.documents) and (stop == start or chars + len(ticket.documents[stop]) <= CHUNK_CHARS):
        # An empty document costs something too.
        chars += len(ticket.documents[stop]) + CHUNK_CHARS // 512
        stop += 1
    return start, stop


def _fill(lead: Ticket, backlog: Backlog, length: int, room: int) -> tuple[Pick, ...]:
    """Pick the rows of a batch that is led by this ticket's longest pair."""
    found = list(_candidates(lead, backlog, length, max(1, room)))
    rows = ROWS[bisect_right(ROWS, sum(pick.count for pick in found)) - 1]
    picks = []
    for pick in found:
        if rows == 0:
            break
        taken = min(pick.count, rows)
        picks.append(Pick(pick.ticket, pick.length, taken))
        rows -= taken
    return tuple(picks)


def _candidates(lead: Ticket, backlog: Backlog, length: int, room: int) -> Iterator[Pick]:
    """Yield pairs between `SPILL` x length and length, ticket by ticket, longest first, until `room` rows are found."""
    near_lengths = range(length, max(int(length * SPILL), LENGTH_STEP) - 1, -LENGTH_STEP)
    others = (ticket for ticket in backlog.small(near_lengths) if ticket is not lead)
    for ticket in chain((lead,), others):
        for near in near_lengths:
            if near in ticket.ready:
                count = min(len(ticket.ready[near]), room)
                yield Pick(ticket, near, count)
                room -= count
                if room == 0:
                    return
