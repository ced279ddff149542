"""Tickets go in the same order sorted and kept, the sums are theirs, and a plan takes no more steps for many."""

import sys
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.engine.runtimes.stub import StubSession
from webapp.scheduling.backlog import Backlog
from webapp.scheduling.batching import Batch, Pick, TokeniseChunk
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket

ONE_ROUND = 128
LENGTHS = (16, 32, 48, 64)


class Both:
    """The same tickets in a backlog that sorts them and in one that keeps an index, each with tickets of its own."""

    def __init__(self, *, reads_ahead):
        self.backlogs = [Backlog(ONE_ROUND, reads_ahead=reads_ahead, few=few) for few in (10**9, 0)]
        self.sorting, self.index = self.backlogs
        self.added = 0

    @property
    def numbers(self):
        return list(self.sorting.tickets)

    def add(self, client, priority, documents):
        for backlog in self.backlogs:
            texts = ["text"] * documents
            backlog.add(Ticket(self.added, "q", texts, lambda: None, priority, client=client))
        self.added += 1

    def read(self, number, lengths):
        """Tokenise some of its documents."""
        for backlog in self.backlogs:
            ticket = backlog.tickets[number]
            start, stop = ticket.unread, min(ticket.unread + len(lengths), len(ticket.documents))
            backlog.take(TokeniseChunk(ticket, start, stop), 0.0)
            backlog.add_ready(ticket, zip(range(start, stop), lengths, strict=False))

    def score(self, number, length):
        """Take one pair out of it."""
        for backlog in self.backlogs:
            ticket = backlog.tickets[number]
            if length in ticket.ready:
                work = backlog.take(Batch((Pick(ticket, length, 1),), length), 0.0)
                assert [(taken, len(indexes)) for taken, indexes in work.rows] == [(ticket, 1)]

    def remove(self, number):
        for backlog in self.backlogs:
            backlog.remove(backlog.tickets[number])

    def check(self):
        def numbers(tickets):
            return [ticket.number for ticket in tickets]

        index, sorting = self.index, self.sorting
        if sorting.oldest:
            assert numbers([index.oldest, index.first]) == numbers([sorting.oldest, sorting.first])
        else:
            assert index.oldest is None
        assert index.small_ready_tokens == sorting.small_ready_tokens
        assert numbers(filter(None, [index.first_unread])) == numbers(filter(None, [sorting.first_unread]))
        for lengths in ([16], [32, 48], LENGTHS):
            found = [each for each in sorting.small(lengths) if any(length in each.ready for length in lengths)]
            assert numbers(index.small(lengths)) == numbers(found)
        for size in (1, 1000):
            assert index.tokens_before(0, size) == sorting.tokens_before(0, size)
        for backlog in self.backlogs:
            tickets = backlog.tickets.values()
            assert backlog.pairs == sum(len(ticket.documents) for ticket in tickets)
            assert backlog.ready_tokens == sum(ticket.ready_tokens for ticket in tickets)
            exact = sum(ticket.ready_tokens + ticket.unread_chars / CHARS_PER_TOKEN for ticket in tickets)
            assert abs(backlog.tokens - exact) < 1


changes = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(-1, 1), st.integers(1, 12)),
    st.tuples(st.just("read"), st.integers(0, 99), st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=12)),
    st.tuples(st.just("score"), st.integers(0, 99), st.sampled_from(LENGTHS)),
    st.tuples(st.just("remove"), st.integers(0, 99)),
)


@given(st.lists(changes, max_size=60), st.booleans())
def test_tickets_go_in_the_same_order_sorted_and_kept(history, reads_ahead):
    both = Both(reads_ahead=reads_ahead)
    for what, place, *rest in history:
        if what == "add":
            both.add(place, *rest)
        elif both.numbers:
            getattr(both, what)(both.numbers[place % len(both.numbers)], *rest)
        both.check()


class Steps:
    """Lines of Python that run, and comparisons of priorities, while it is entered."""

    def __init__(self):
        self.count = 0

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, _frame, event, _argument):
        self.count += event == "line"
        return self._trace


def scheduler_with(waiting, clients, steps, **engine):
    class Priority(int):
        """Counts what the C code of a sort or a search does with it, too."""

        def __lt__(self, other):
            steps.count += 1
            return int(self) < int(other)

        def __eq__(self, other):
            steps.count += 1
            return int(self) == int(other)

        __hash__ = int.__hash__

    scheduler = Scheduler(lock=nullcontext(), budget_tokens=1024, threads=2, **engine)
    for number in range(waiting):
        client = str(number % clients)
        scheduler.submit("q", ["a few words"], lambda: None, priority=Priority(0), deadline=1e9 - number, client=client)
    return scheduler


@pytest.mark.parametrize("clients", [1, 100_000], ids=["of one client", "each of its own client"])
@pytest.mark.parametrize("engine", [{"padded": True}, {"padded": False}, {"padded": False, "most_batches": 2}], ids=str)
def test_a_step_takes_hardly_more_steps_when_many_wait(clients, engine):
    taken = {}
    for waiting in (10, 1000, 50_000):
        steps = Steps()
        scheduler, session = scheduler_with(waiting, clients, steps, **engine), StubSession()
        for _ in range(8):  # builds the index, and leaves tickets read, scored and unread
            scheduler.step(session)
        steps.count = 0
        with steps:
            for _ in range(4):
                scheduler.step(session)
            ticket = scheduler.submit("q", ["a few words"], lambda: None, client="new")
            scheduler.queued_tokens_before(10, 0)
            scheduler.extend_deadline(ticket, 2e9)
            scheduler.cancel(ticket, RuntimeError())
        taken[waiting] = steps.count
    assert taken[1000] < 3 * taken[10], taken
    assert taken[50_000] < 3 * taken[10], taken
