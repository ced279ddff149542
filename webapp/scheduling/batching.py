"""What an engine thread does next. PURE: takes the queue, returns a plan, changes nothing.

Laws:
1. Shortest remaining work leads, so that a small request passes a large one at the next batch.
2. Every fourth plan is led by the oldest request, so that nobody starves.
3. A batch costs what it is padded to: rows x longest. Pairs wait sorted by padded length (multiples of
   `LENGTH_STEP`), a batch takes from one length and spills only into nearby ones.
4. Few shapes: the engine keeps compiled code for every (rows, length) it meets, so rows come from `ROWS`.
5. A plan is never empty while there is work: a pair longer than the budget makes a batch of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from webapp.scheduling.ticket import Ticket

LENGTH_STEP = 16
"""Tokens. Exact lengths are no faster and let the engine's shape cache grow by more than a gigabyte."""

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 192, 256)

CHUNK_CHARS = 16_384
"""Tokenising this much takes a few milliseconds: the longest a batch waits behind it."""

READ_AHEAD_TOKENS = 65_536
"""A large request is tokenised this far ahead of its scoring: enough to fill batches of one length."""

SPILL = 0.8
"""A batch may hold pairs down to this share of its longest; more padding costs more than a smaller batch."""

OLDEST_EVERY = 4


@dataclass(frozen=True, slots=True)
class TokeniseChunk:
    """Tokenise documents [start, stop) of a ticket."""

    ticket: Ticket
    start: int
    stop: int


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


def padded(length_tokens: int) -> int:
    """The length a pair is padded to, in tokens."""
    return -(-length_tokens // LENGTH_STEP) * LENGTH_STEP


def plan_batch(
    tickets: Iterable[Ticket], *, turn: int, budget_tokens: int, threads: int
) -> TokeniseChunk | Batch | None:
    """Decide what one engine thread does next.

    Args:
        tickets: every unfinished ticket, oldest first.
        turn: how many plans were made before; chooses between law 1 and law 2.
        budget_tokens: cap on rows x longest of a batch.
        threads: engine threads that share the queue; near the end each takes its part, not all that fits.

    Returns:
        A plan, or None when every ticket is in other threads' hands.
    """
    waiting = [ticket for ticket in tickets if ticket.ready or ticket.unread < len(ticket.documents)]
    if not waiting:
        return None
    oldest = waiting[0]
    waiting.sort(key=lambda ticket: ticket.remaining_tokens)  # stable: equals stay in order of arrival
    if turn % OLDEST_EVERY == 0:
        waiting.remove(oldest)
        waiting.insert(0, oldest)
    lead = waiting[0]
    if lead.unread < len(lead.documents) and (not lead.ready or lead.ready_tokens < READ_AHEAD_TOKENS):
        return _next_chunk(lead)
    share_tokens = sum(ticket.ready_tokens for ticket in waiting) // threads
    return _fill(waiting, min(budget_tokens, max(share_tokens, 1)))


def _next_chunk(ticket: Ticket) -> TokeniseChunk:
    start = stop = ticket.unread
    chars = 0
    while stop < len(ticket.documents) and (stop == start or chars + len(ticket.documents[stop]) <= CHUNK_CHARS):
        # An empty document costs something too.
        chars += len(ticket.documents[stop]) + CHUNK_CHARS // 512
        stop += 1
    return TokeniseChunk(ticket, start, stop)


def _fill(waiting: list[Ticket], room_tokens: int) -> Batch:
    """A batch led by the first ticket's longest pair."""
    length = max(waiting[0].ready)
    room = max(1, room_tokens // length)
    found = list(_candidates(waiting, length, room))
    rows = ROWS[bisect_right(ROWS, sum(pick.count for pick in found)) - 1]
    picks = []
    for pick in found:
        if rows == 0:
            break
        taken = min(pick.count, rows)
        picks.append(Pick(pick.ticket, pick.length, taken))
        rows -= taken
    return Batch(tuple(picks), length)


def _candidates(waiting: list[Ticket], length: int, room: int) -> Iterator[Pick]:
    """Pairs between `SPILL` x length and length, ticket by ticket, longest first, until `room` rows are found."""
    shortest = int(length * SPILL)
    for ticket in waiting:
        for near in range(length, max(shortest, LENGTH_STEP) - 1, -LENGTH_STEP):
            if near in ticket.ready:
                count = min(len(ticket.ready[near]), room)
                yield Pick(ticket, near, count)
                room -= count
                if room == 0:
                    return
