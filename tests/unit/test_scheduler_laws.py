"""Whatever is submitted, cancelled or late: each admitted pair is scored once, or expires, or is cancelled."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from webapp.domain.concurrency import allocate_lock
from webapp.domain.errors import CancelledError, DeadlineExceededError
from webapp.scheduling.batching import MOST_READ_FIRST, PASSED_OVER_LIMIT
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
