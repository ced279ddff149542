"""The order of the tickets is the same sorted and kept, and a plan takes as many steps for many as for few."""

import sys
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.engine.runtimes.stub import StubSession
from webapp.scheduling.order import Order
from webapp.scheduling.scheduler import Scheduler
from webapp.scheduling.ticket import Ticket

ONE_ROUND = 128
LENGTHS = (16, 32, 48, 64)


class Both:
    """The same tickets in an order that sorts and in one that keeps an index."""

    def __init__(self):
        self.sorting, self.index = self.orders = Order(ONE_ROUND, few=10**9), Order(ONE_ROUND, few=0)
        self.tickets = []
        self.served = {}
        self.added = 0

    def add(self, client, priority, documents):
        made = Ticket(self.added, "q", ["text"] * documents, lambda: None, priority, client=client)
        self.added += 1
        self.tickets.append(made)
        for order in self.orders:
            if client not in self.served:
                order.serve(client, 0)
            order.add(made)
        self.served.setdefault(client, 0)

    def read(self, ticket, lengths):
        """Tokenise some of its documents."""
        for length in lengths[: len(ticket.documents) - ticket.unread]:
            ticket.ready.setdefault(length, []).append(ticket.unread)
            ticket.ready_tokens += length
            ticket.unread += 1
        ticket.unread_chars = 4 * (len(ticket.documents) - ticket.unread)
        for order in self.orders:
            order.update(ticket)

    def score(self, ticket, length):
        """Take one pair out of it."""
        if length in ticket.ready:
            ticket.ready_tokens -= length
            ticket.ready[length].pop()
            if not ticket.ready[length]:
                del ticket.ready[length]
            self.served[ticket.client] += length
            for order in self.orders:
                order.update(ticket)
                order.serve(ticket.client, self.served[ticket.client])

    def remove(self, ticket):
        self.tickets.remove(ticket)
        last = all(each.client != ticket.client for each in self.tickets)
        for order in self.orders:
            order.remove(ticket)
            if last:
                order.forget(ticket.client)
        if last:
            del self.served[ticket.client]

    def check(self):
        assert self.index.oldest is self.sorting.oldest
        if self.sorting.oldest:
            assert self.index.first is self.sorting.first
        assert self.index.small_ready_tokens == self.sorting.small_ready_tokens
        for lengths in ([16], [32, 48], LENGTHS):
            found = [each for each in self.sorting.small(lengths) if any(length in each.ready for length in lengths)]
            assert list(self.index.small(lengths)) == found
        for size in (1, 1000):
            assert self.index.tokens_before(0, size) == self.sorting.tokens_before(0, size)


changes = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(-1, 1), st.integers(1, 12)),
    st.tuples(st.just("read"), st.integers(0, 99), st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=12)),
    st.tuples(st.just("score"), st.integers(0, 99), st.sampled_from(LENGTHS)),
    st.tuples(st.just("remove"), st.integers(0, 99)),
)


@given(st.lists(changes, max_size=60))
def test_tickets_go_in_the_same_order_sorted_and_kept(history):
    both = Both()
    for what, place, *rest in history:
        if what == "add":
            both.add(place, *rest)
        elif both.tickets:
            getattr(both, what)(both.tickets[place % len(both.tickets)], *rest)
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


def scheduler_with(waiting, clients, steps):
    class Priority(int):
        """Counts what the C code of a sort or a search does with it, too."""

        def __lt__(self, other):
            steps.count += 1
            return int(self) < int(other)

        def __eq__(self, other):
            steps.count += 1
            return int(self) == int(other)

        __hash__ = int.__hash__

    scheduler = Scheduler(lock=nullcontext(), budget_tokens=1024, threads=2)
    for number in range(waiting):
        client = str(number % clients)
        scheduler.submit("q", ["a few words"], lambda: None, priority=Priority(0), deadline=1e9 - number, client=client)
    return scheduler


@pytest.mark.parametrize("clients", [1, 100_000], ids=["of one client", "each of its own client"])
def test_a_step_takes_hardly_more_steps_when_many_wait(clients):
    taken = {}
    for waiting in (10, 1000, 50_000):
        steps = Steps()
        scheduler, session = scheduler_with(waiting, clients, steps), StubSession()
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
