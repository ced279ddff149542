"""The plan of what an engine thread does next. PURE: reads the backlog, changes nothing.

Laws:
1. The lowest priority number leads; among equals less remaining work does, by orders of two, so that a small request
   passes a large one at the next batch; among equals in that too the client that was served less does, by rounds, so
   that many requests of one client don't hold up the few of another; then the older, so that at full load a document
   a little longer than others does not wait for all of them. `backlog` sorts so.
2. The oldest request leads at least every fourth plan, so that none starves, whatever its priority.
3. A batch costs what the engine computes. Where it pads rows (OpenVINO, torch) that is rows x longest: a batch takes
   pairs of one length (in steps of `LENGTH_STEP`) and spills only into nearby ones. Else (native) it is the sum of the
   lengths: a batch takes pairs of any length, the longest first, then those for which there is room, and no more rows
   than the last of `ROWS` (on a GPU: than one for each `LENGTH_STEP` of its budget).
4. Few shapes: an engine that pads keeps compiled code for every (rows, length) it meets, so rows come from `ROWS`.
5. A large request fills no batch of a small one: the small one would wait for pairs that are in no hurry.
6. A small request's batch that has room for more waits until others are read that may fill it: small requests, of no
   lower priority, at most `MOST_READ_FIRST`, and only while no other thread is free to read them.
7. A plan is never empty while there is work: a pair longer than the budget makes a batch of its own.
8. An engine on a GPU computes few batches at once (`most_batches`), so few threads compute and the others read. While
   that many batches are in hand, a thread reads the first ticket with unread documents, up to `ROUNDS_AHEAD`, or it
   waits. A batch takes all that fits: threads don't share it. If no batch is in hand, one begins with what is ready. If
   one is, the next begins when it is full, or when nothing is unread that may fill it; so law 6 has no place there.
   Law 2 counts batches alone, since reading goes on meanwhile.
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
"""A large request is tokenised this far ahead of its scoring: enough to fill batches of one length. Where lengths may
mix, one round of batches is enough."""

SPILL = 0.8
"""A batch may hold pairs down to this share of its longest; more padding costs more than a smaller batch."""

MOST_MISSES = 16
"""Tickets that are looked at in vain for what still fits into a batch: many may wait, and a plan must be quick."""

WORTH_SHARING_TOKENS = 256
"""Less than this a thread does not share with busy threads: a batch of a few pairs is not worth it."""

PASSED_OVER_LIMIT = 3
"""Plans in a row that younger requests may lead."""

ROUNDS_AHEAD = 2
"""Rounds of batches that are read ahead of a GPU: enough that its next batches are full, and little memory."""

MOST_READ_FIRST = 3
"""Requests that are read before a batch that they may join; reading one takes a hundredth of a batch's time."""


@dataclass(frozen=True, slots=True)
class TokeniseChunk:
    """Tokenise documents [start, stop) of a ticket."""

    ticket: Ticket
    start: int
    stop: int
    led_by_oldest: bool = True
    joins: bool = False
    """It is read so that it may join a batch that another ticket leads, or ahead of all batches."""


@dataclass(frozen=True, slots=True)
class Pick:
    """`count` pairs of a ticket that wait at this length class."""

    ticket: Ticket
    length: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Score these pairs in one forward pass."""

    picks: tuple[Pick, ...]
    length: int
    """Tokens that each row is given; an engine that pads computes all of them."""
    led_by_oldest: bool = True
    led_by_small: bool = True


def length_class(length_tokens: int) -> int:
    """Return a length in tokens rounded up to a multiple of `LENGTH_STEP`."""
    return -(-length_tokens // LENGTH_STEP) * LENGTH_STEP


def plan_batch(
    backlog: Backlog,
    *,
    passed_over: int,
    budget_tokens: int,
    threads: int,
    idle: int = 0,
    read_first: int = 0,
    at_work: int = 0,
    most_batches: int = 0,
) -> TokeniseChunk | Batch | None:
    """Decide what one engine thread does next.

    Args:
        backlog: every ticket that waits.
        passed_over: how many plans in a row were not led by the oldest.
        budget_tokens: cap on what a batch costs.
        threads: engine threads that share the queue; of what is short each takes its part, not all that fits.
        idle: how many of the others have nothing to do.
        read_first: chunks that `joins` since the last batch that a small ticket led.
        at_work: batches in the hands of threads.
        most_batches: how many the engine computes at once; 0: one in each thread.

    Returns:
        A plan, or None when other threads hold every ticket, or as many batches as may be.
    """
    oldest = backlog.oldest
    if oldest is None:
        return None
    lead = oldest if passed_over >= PASSED_OVER_LIMIT else backlog.first
    if most_batches:
        return _plan_few(lead, oldest, backlog, budget_tokens=budget_tokens, at_work=at_work, most_batches=most_batches)
    read_ahead_tokens = READ_AHEAD_TOKENS if backlog.padded else budget_tokens * threads
    if lead.unread < len(lead.documents) and (not lead.ready or lead.ready_tokens < read_ahead_tokens):
        start, stop = _next_chunk(lead)
        return TokeniseChunk(lead, start, stop, lead is oldest)
    small = backlog.is_small(lead)
    if small and not idle and read_first < MOST_READ_FIRST and backlog.small_ready_tokens < budget_tokens:
        unread = backlog.first_unread
        if unread is not None and unread.priority <= lead.priority:
            return TokeniseChunk(unread, *_next_chunk(unread), unread is oldest, joins=True)
    ready_tokens = backlog.small_ready_tokens + (0 if small else lead.ready_tokens)
    share_tokens = max(ready_tokens // threads, min(-(-ready_tokens // (1 + idle)), WORTH_SHARING_TOKENS))
    picks = _fill(lead, backlog, min(budget_tokens, share_tokens), ROWS[-1])
    return Batch(picks, max(pick.length for pick in picks), lead is oldest, small)


def has_work(backlog: Backlog, budget_tokens: int, at_work: int, most_batches: int) -> bool:
    """Return whether a thread that asks now gets a plan; the arguments are those of `plan_batch`."""
    if most_batches and at_work >= most_batches:
        return _first_ahead(backlog, budget_tokens * most_batches) is not None
    return backlog.tokens > 0


def _plan_few(
    lead: Ticket, oldest: Ticket, backlog: Backlog, *, budget_tokens: int, at_work: int, most_batches: int
) -> TokeniseChunk | Batch | None:
    """Plan for an engine that computes only so many batches at once."""
    none_free = at_work >= most_batches
    small = backlog.is_small(lead)
    if none_free:
        unread = _first_ahead(backlog, budget_tokens * most_batches)
    elif not lead.ready:
        unread = lead
    elif at_work and backlog.small_ready_tokens + (0 if small else lead.ready_tokens) < budget_tokens:
        unread = _first_to_join(lead, backlog)
    else:
        unread = None
    if unread is not None:
        return TokeniseChunk(unread, *_next_chunk(unread), unread is oldest, joins=True)
    if none_free:
        return None
    picks = _fill(lead, backlog, budget_tokens, max(ROWS[-1], budget_tokens // LENGTH_STEP))
    return Batch(picks, max(pick.length for pick in picks), lead is oldest, small)


def _first_ahead(backlog: Backlog, one_round_tokens: int) -> Ticket | None:
    """Return the ticket to read while others compute; None when all is read, or enough.

    What large tickets have ready does not count against a small one, which goes before them.
    """
    unread = backlog.first_unread
    if unread is None:
        return None
    ready_tokens = backlog.small_ready_tokens if backlog.is_small(unread) else backlog.ready_tokens
    return unread if ready_tokens < ROUNDS_AHEAD * one_round_tokens else None


def _first_to_join(lead: Ticket, backlog: Backlog) -> Ticket | None:
    """Return the ticket to read so that it may join a batch that `lead` leads; None when there is none."""
    unread = backlog.first_unread
    if unread is None or unread.priority > lead.priority:
        return None
    return unread if unread is lead or backlog.is_small(unread) else None


def _next_chunk(ticket: Ticket) -> tuple[int, int]:
    start = stop = ticket.unread
    chars = 0
    while stop < len(ticket.documents) and (stop == start or chars + len(ticket.documents[stop]) <= CHUNK_CHARS):
        # An empty document costs something too.
        chars += len(ticket.documents[stop]) + CHUNK_CHARS // 512
        stop += 1
    return start, stop


def _fill(lead: Ticket, backlog: Backlog, room_tokens: int, most_rows: int) -> tuple[Pick, ...]:
    if backlog.padded:
        return _fill_rows(lead, backlog, max(lead.ready), room_tokens)
    return _fill_tokens(lead, backlog, room_tokens, most_rows)


def _fill_tokens(lead: Ticket, backlog: Backlog, room: int, most_rows: int) -> tuple[Pick, ...]:
    """Pick pairs of any lengths that are no more than `room` tokens together, unless the first alone is more."""
    picks: list[Pick] = []
    misses = rows = 0
    lengths = range(LENGTH_STEP, length_class(room) + 1, LENGTH_STEP)
    for ticket in chain((lead,), (ticket for ticket in backlog.small(lengths) if ticket is not lead)):
        found = len(picks)
        for length in sorted(ticket.ready, reverse=True):
            count = 0
            for index in reversed(ticket.ready[length]):
                tokens = int(ticket.lengths[index])
                if rows + count == most_rows or (tokens > room and rows + count):
                    break
                room -= tokens
                count += 1
            if count:
                picks.append(Pick(ticket, length, count))
                rows += count
        misses += len(picks) == found
        if room <= 0 or rows == most_rows or misses == MOST_MISSES:
            break
    return tuple(picks)


def _fill_rows(lead: Ticket, backlog: Backlog, length: int, room_tokens: int) -> tuple[Pick, ...]:
    """Pick rows that are padded to this length, that of the ticket's longest pair."""
    found = list(_candidates(lead, backlog, length, max(1, room_tokens // length)))
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
