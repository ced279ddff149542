"""Whatever is submitted, cancelled or late: each admitted pair is scored once, or expires, or is cancelled."""

from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
from greenlet import getcurrent, greenlet
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from webapp.domain.concurrency import allocate_lock
from webapp.domain.errors import CancelledError, DeadlineExceededError, EngineFailedError
from webapp.scheduling import scheduler as module
from webapp.scheduling.batching import MOST_READ_FIRST, PASSED_OVER_LIMIT, Batch, plan_batch
from webapp.scheduling.scheduler import Scheduler

BUDGET_TOKENS = 256


class Session:
    """A document is "number length"; its logit is the number. Remembers what it scored, and for whom."""

    def __init__(self):
        self.scored = []
        self.broken_budgets = []
        self.padded = True

    def encode_query(self, query, _instruction):
        return query

    def encode_documents(self, _query, documents):
        numbers, lengths = zip(*(map(int, text.split()) for text in documents), strict=True)
        ids = [np.array([number, length], np.int32) for number, length in zip(numbers, lengths, strict=True)]
        return ids, np.array(lengths, np.int32), np.zeros(len(documents), np.bool_)

    def score(self, pairs, length):
        cost = len(pairs) * length if self.padded else sum(int(ids[1]) for _, ids in pairs)
        if len(pairs) > 1 and cost > BUDGET_TOKENS:
            self.broken_budgets.append((len(pairs), length))
        self.scored += [(query, int(ids[0])) for query, ids in pairs]
        return np.array([ids[0] for _, ids in pairs], np.float32)


class Submitted:
    """A request as its caller knows it."""

    def __init__(self, query, numbers, deadline):
        self.query, self.numbers, self.deadline = query, numbers, deadline
        self.woken = 0
        self.scored_when_left = None

    def wake(self):
        self.woken += 1


class SchedulerLaws(RuleBasedStateMachine):
    padded = True

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.session = Session()
        self.session.padded = self.padded
        self.scheduler = Scheduler(
            lock=allocate_lock(),
            budget_tokens=BUDGET_TOKENS,
            threads=2,
            padded=self.padded,
            clock=lambda: self.now,
        )
        self.requests = {}
        self.next_number = 0
        self.oldest_waited = 0

    def waiting(self):
        return [ticket for ticket in self.requests if ticket.error is None and not ticket.succeeded]

    @rule(
        lengths=st.lists(st.integers(3, 400), min_size=1, max_size=60),
        patience_s=st.sampled_from([1.0, 5.0, 1e9]),
        priority=st.integers(-1, 1),
    )
    def submit(self, lengths, patience_s, priority):
        numbers = range(self.next_number, self.next_number + len(lengths))
        self.next_number += len(lengths)
        documents = [f"{number} {length}" for number, length in zip(numbers, lengths, strict=True)]
        made = Submitted(f"q{len(self.requests)}", list(numbers), self.now + patience_s)
        ticket = self.scheduler.submit(made.query, documents, made.wake, priority=priority, deadline=made.deadline)
        self.requests[ticket] = made

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.waiting())
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice):
        self.scheduler.cancel(choice.choice(self.waiting()), CancelledError("gone"))

    @precondition(lambda self: any(self.requests[ticket].deadline > self.now for ticket in self.waiting()))
    @rule(steps=st.integers(1, 8))
    def work(self, steps):
        for _ in range(steps):
            alive = [ticket for ticket in self.waiting() if self.requests[ticket].deadline > self.now]
            if not alive:
                return
            oldest = alive[0]
            before = (oldest.number, oldest.unread, oldest.scored)
            assert self.scheduler.step(self.session)
            same = (oldest.number, oldest.unread, oldest.scored) == before
            self.oldest_waited = self.oldest_waited + 1 if same else 0
            assert self.oldest_waited <= PASSED_OVER_LIMIT * (1 + MOST_READ_FIRST), "the oldest starves"
            assert all(ticket.deadline > self.now for ticket in self.waiting()), "what is late has left"

    @invariant()
    def every_pair_is_scored_at_most_once_and_for_its_own_request(self):
        scored = self.session.scored
        assert len(scored) == len(set(scored))
        owners = {number: made.query for made in self.requests.values() for number in made.numbers}
        assert all(owners[number] == query for query, number in scored)

    @invariant()
    def a_request_ends_once_with_its_own_scores_or_an_error_and_then_nothing_of_it_is_scored(self):
        for ticket, made in self.requests.items():
            ended = ticket.error is not None or ticket.succeeded
            assert made.woken == ended
            if ticket.succeeded:
                assert ticket.logits.tolist() == made.numbers
            if ended:
                count = sum(query == made.query for query, _ in self.session.scored)
                made.scored_when_left = count if made.scored_when_left is None else made.scored_when_left
                assert count == made.scored_when_left
            if isinstance(ticket.error, DeadlineExceededError):
                assert made.deadline <= self.now

    @invariant()
    def the_budget_is_kept_but_by_a_single_pair(self):
        assert self.session.broken_budgets == []

    @invariant()
    def the_sums_are_those_of_the_tickets(self):
        waiting = self.waiting()
        assert self.scheduler.queued_pairs == sum(len(ticket.documents) - ticket.scored for ticket in waiting)
        exact = sum(ticket.ready_tokens + ticket.unread_chars / 4 for ticket in waiting)
        assert abs(self.scheduler.queued_tokens - exact) < 1

    def teardown(self):
        patient = [ticket for ticket in self.waiting() if self.requests[ticket].deadline > self.now]
        while not all(ticket.succeeded for ticket in patient):
            assert self.scheduler.step(self.session)
        assert self.scheduler.queued_pairs == sum(
            len(ticket.documents) - ticket.scored for ticket in self.waiting() if ticket not in patient
        )


class MixedSchedulerLaws(SchedulerLaws):
    padded = False


for laws in (SchedulerLaws, MixedSchedulerLaws):
    laws.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSchedulerLaws = SchedulerLaws.TestCase
TestMixedSchedulerLaws = MixedSchedulerLaws.TestCase


class Threads:
    """A scheduler of a GPU with engine threads in one thread: each goes on until it has something in hand, or sleeps.

    The test says which goes on, so every order is possible, and none hides a lost wake-up behind a lucky one.
    """

    def __init__(self, *, threads, most_batches, fails=lambda _numbers: False):
        self.most_batches = most_batches
        self.fails = fails
        self.session = Session()
        self.session.padded = False
        self.wakes = self.puts = self.plans = 0
        self.changes = self.changes_at_wake = 0
        """Plans and failures: each may take away what a thread was woken for."""
        self.batches = []
        """Queries of each batch."""
        self.passed_over = 0
        """Batches in a row without the oldest, which waited."""
        with patch.object(module, "SimpleQueue", lambda: self):
            self.scheduler = Scheduler(
                lock=nullcontext(),
                budget_tokens=BUDGET_TOKENS,
                threads=threads,
                padded=False,
                most_batches=most_batches,
            )
        self.tickets = []
        self.hub = getcurrent()
        self.states = {greenlet(self.run): "begins" for _ in range(threads)}

    def submit(self, lengths, priority=0):
        first = sum(len(ticket.documents) for ticket in self.tickets)
        documents = [f"{first + place} {length}" for place, length in enumerate(lengths)]
        made = self.scheduler.submit(f"q{len(self.tickets)}", documents, lambda: None, priority=priority)
        self.tickets.append(made)
        return made

    def run(self):
        while self.scheduler.step(self):
            pass

    def encode_query(self, query, instruction):
        return self.session.encode_query(query, instruction)

    def encode_documents(self, query, documents):
        self.hub.switch("reads")
        return self.session.encode_documents(query, documents)

    def score(self, pairs, length):
        self.batches.append({query for query, _ in pairs})
        self.hub.switch("computes")
        if self.fails(pairs):
            self.changes += 1
            raise RuntimeError("boom")
        return self.session.score(pairs, length)

    def put(self, _):
        """Wake a thread, as the scheduler's queue does."""
        self.wakes += 1
        self.puts += 1
        self.changes_at_wake = self.changes

    def get(self):
        """Sleep, as in the scheduler's queue."""
        self.hub.switch("sleeps")
        self.wakes -= 1

    def plan(self, backlog, **now):
        """Plan as ever, and check the plan."""
        assert now["at_work"] == self.count("computes")
        waiting = [ticket for ticket in backlog.tickets.values() if ticket.waits]
        plan = plan_batch(backlog, **now)
        assert plan is not None or not waiting or now["at_work"] == self.most_batches, "empty, but there is work"
        if isinstance(plan, Batch):
            with_oldest = any(pick.ticket is waiting[0] for pick in plan.picks)
            self.passed_over = 0 if with_oldest else self.passed_over + 1
        self.plans += plan is not None
        self.changes += plan is not None
        return plan

    def count(self, state):
        return sum(each == state for each in self.states.values())

    @property
    def able(self):
        """Threads that can go on."""
        return [each for each, state in self.states.items() if state != "sleeps" or self.wakes]

    def go_on(self, thread):
        woken, changes = self.states[thread] == "sleeps", self.changes_at_wake
        self.states[thread] = "plans"
        with patch.object(module, "plan_batch", self.plan):
            self.states[thread] = thread.switch()
        if woken and self.states[thread] == "sleeps":
            assert self.changes > changes, "it was woken for nothing"
        assert self.count("computes") <= self.most_batches
        awake = self.wakes or len(self.states) > self.count("sleeps") + self.count("computes")
        assert awake or not self.count("sleeps") or not self.is_work_left(), "a lost wake-up"

    def is_work_left(self):
        """Whether one more thread would get a plan."""
        backlog = self.scheduler._backlog
        return plan_batch(
            backlog,
            passed_over=0,
            budget_tokens=BUDGET_TOKENS,
            threads=len(self.states),
            at_work=self.count("computes"),
            most_batches=self.most_batches,
        )

    def finish(self, choose):
        while able := self.able:
            self.go_on(choose(able))
        assert self.scheduler.queued_pairs == 0


pieces = st.lists(
    st.tuples(st.lists(st.integers(3, 400), min_size=1, max_size=60), st.integers(-1, 1)), min_size=1, max_size=12
)


@settings(max_examples=200, deadline=None)
@given(pieces, st.integers(1, 5), st.integers(1, 3), st.randoms(use_true_random=False), st.booleans())
def test_whichever_thread_goes_on_a_gpu_scores_all_with_few_batches_in_hand(
    requests, threads, most_batches, choice, broken
):
    def fails(pairs):
        return broken and any(int(ids[0]) % 17 == 0 for _, ids in pairs)

    rig = Threads(threads=threads, most_batches=most_batches, fails=fails)
    coming = list(requests)
    while coming:
        able = rig.able
        if able and choice.random() < 0.8:
            rig.go_on(choice.choice(able))
        else:
            rig.submit(*coming.pop())
        assert rig.passed_over <= PASSED_OVER_LIMIT, "the oldest starves"
    rig.finish(choice.choice)
    assert rig.session.broken_budgets == []
    assert len(rig.session.scored) == len(set(rig.session.scored))
    for ticket in rig.tickets:
        if broken and ticket.error is not None:
            assert isinstance(ticket.error, EngineFailedError)
        else:
            assert ticket.succeeded
            assert ticket.logits.tolist() == [int(text.split()[0]) for text in ticket.documents]


@pytest.mark.parametrize("most_batches", [1, 2])
def test_a_small_request_is_in_the_next_batch_of_a_gpu_while_large_ones_wait(most_batches):
    rig = Threads(threads=4, most_batches=most_batches)
    rig.submit([100] * 200)
    while rig.count("computes") < most_batches or len(rig.able) > most_batches:
        rig.go_on(next(each for each in rig.able if rig.states[each] != "computes"))
    rig.submit([50])
    begun = len(rig.batches)
    for state in ("sleeps", "reads", "computes"):
        rig.go_on(next(each for each in rig.able if rig.states[each] == state))
    assert rig.batches[begun:] == [{"q1"}]
    rig.finish(lambda able: able[0])


def test_threads_that_find_no_place_sleep_and_each_wake_is_for_a_plan():
    rig = Threads(threads=4, most_batches=1)
    rig.submit([100] * 200)
    rig.finish(lambda able: next((each for each in able if rig.states[each] != "computes"), able[0]))
    assert rig.puts <= rig.plans < 200
