import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.scheduling.backlog import FEW, Backlog
from webapp.scheduling.batching import (
    MOST_MISSES,
    ROUNDS_AHEAD,
    ROWS,
    SPILL,
    Batch,
    TokeniseChunk,
    has_work,
    length_class,
    plan_batch,
)
from webapp.scheduling.ticket import Ticket


def ticket(number, lengths, *, unread=0, padded=True):
    """A ticket with tokenised pairs of these lengths and some documents nobody has read."""
    made = Ticket(number, "q", ["text"] * (len(lengths) + unread), lambda: None)
    for index, length in enumerate(lengths):
        made.ready.setdefault(length_class(length), []).append(index)
        made.ready_tokens += length_class(length) if padded else length
        made.lengths[index] = length
    made.unread = len(lengths)
    made.unread_chars = unread * 4
    return made


def backlog_of(tickets, one_round_tokens, *, served=None, padded=True, reads_ahead=False, few=FEW):
    backlog = Backlog(one_round_tokens, padded=padded, reads_ahead=reads_ahead, few=few)
    for each in tickets:
        backlog.add(each)
    for client, tokens in (served or {}).items():
        backlog.serve(client, tokens)
    return backlog


def plan(tickets, *, passed_over=0, budget_tokens=1024, threads=1, idle=0, served=None, padded=True, read_first=0):
    """Plan with the tickets sorted and with the tickets in the index, which must be the same."""
    by_sorting, by_index = (
        plan_batch(
            backlog_of(tickets, budget_tokens * threads, served=served, padded=padded, few=few),
            passed_over=passed_over,
            budget_tokens=budget_tokens,
            threads=threads,
            idle=idle,
            read_first=read_first,
        )
        for few in (len(tickets), 0)
    )
    assert by_sorting == by_index
    return by_sorting


queues = st.lists(st.lists(st.integers(3, 600), min_size=1, max_size=40), min_size=1, max_size=8)


@given(queues, st.integers(0, 7), st.integers(16, 4096), st.integers(1, 4))
def test_a_batch_stays_in_budget_unless_it_is_a_single_pair(lengths, passed_over, budget_tokens, threads):
    tickets = [ticket(number, each) for number, each in enumerate(lengths)]
    batch = plan(tickets, passed_over=passed_over, budget_tokens=budget_tokens, threads=threads)
    assert isinstance(batch, Batch)
    rows = sum(pick.count for pick in batch.picks)
    assert rows == 1 or rows * batch.length <= budget_tokens
    assert rows in ROWS
    for pick in batch.picks:
        assert 0 < pick.count <= len(pick.ticket.ready[pick.length])
        assert SPILL * batch.length - 16 < pick.length <= batch.length


def lengths_of(pick):
    return [int(pick.ticket.lengths[index]) for index in pick.ticket.ready[pick.length][-pick.count :]]


@given(queues, st.integers(0, 7), st.integers(16, 4096), st.integers(1, 4))
def test_a_batch_of_mixed_lengths_stays_in_budget_unless_it_is_a_single_pair(
    lengths, passed_over, budget_tokens, threads
):
    tickets = [ticket(number, each, padded=False) for number, each in enumerate(lengths)]
    batch = plan(tickets, passed_over=passed_over, budget_tokens=budget_tokens, threads=threads, padded=False)
    assert isinstance(batch, Batch)
    taken = [tokens for pick in batch.picks for tokens in lengths_of(pick)]
    assert len(taken) == 1 or sum(taken) <= budget_tokens
    assert max(taken) <= batch.length < max(taken) + 16
    assert len({(pick.ticket.number, pick.length) for pick in batch.picks}) == len(batch.picks)
    lead = batch.picks[0].ticket
    assert batch.picks[0].length == max(lead.ready)


def test_pairs_of_any_lengths_share_a_batch_where_nothing_is_padded():
    batch = plan([ticket(0, [500, 20, 30, 40], padded=False), ticket(1, [200, 17], padded=False)], padded=False)
    assert [(pick.ticket.number, pick.length, pick.count) for pick in batch.picks] == [
        (0, 512, 1),
        (0, 48, 1),
        (0, 32, 2),
        (1, 208, 1),
        (1, 32, 1),
    ]


def test_what_does_not_fit_is_passed_over_for_what_does():
    tickets = [ticket(number, [tokens], padded=False) for number, tokens in enumerate([150, 200, 90])]
    assert [pick.ticket.number for pick in plan(tickets, budget_tokens=256, padded=False).picks] == [0, 2]


def test_no_more_than_a_few_requests_are_looked_at_in_vain():
    many = [ticket(number, [200], padded=False) for number in range(MOST_MISSES + 1)]
    fits = ticket(len(many), [20], padded=False)
    assert len(plan([*many, fits], budget_tokens=256, padded=False).picks) == 1
    assert len(plan([*many[:-1], fits], budget_tokens=256, padded=False).picks) == 2


def test_where_nothing_is_padded_a_large_request_is_read_no_further_than_the_next_batches():
    rest = ticket(0, [100] * 20, unread=1000, padded=False)
    assert isinstance(plan([rest], budget_tokens=1024, padded=False), Batch)
    assert isinstance(plan([rest], budget_tokens=1024, threads=2, padded=False), TokeniseChunk)


@given(queues, st.booleans())
def test_planning_changes_nothing(lengths, padded):
    tickets = [ticket(number, each, unread=number % 2, padded=padded) for number, each in enumerate(lengths)]
    before = [repr(each) for each in tickets]
    assert plan(tickets, padded=padded) == plan(tickets, padded=padded)
    assert [repr(each) for each in tickets] == before


def test_a_small_request_passes_a_large_one():
    large, small = ticket(0, [100] * 500), ticket(1, [100] * 2)
    assert plan([large, small]).picks[0].ticket is small


def test_among_requests_of_a_size_the_older_leads():
    older, younger = ticket(0, [100] * 4), ticket(1, [40])
    assert plan([older, younger]).picks[0].ticket is older


def test_the_oldest_leads_after_it_was_passed_over_three_times():
    large, small = ticket(0, [100] * 500), ticket(1, [100] * 2)
    assert plan([large, small], passed_over=3).picks[0].ticket is large


def test_a_batch_takes_pairs_of_many_requests():
    batch = plan([ticket(number, [100]) for number in range(6)])
    assert len({pick.ticket.number for pick in batch.picks}) == 6


def test_a_large_request_fills_no_batch_of_a_small_one():
    large, small = ticket(0, [100] * 500), ticket(1, [100])
    assert [(pick.ticket.number, pick.count) for pick in plan([large, small]).picks] == [(1, 1)]


def test_a_small_request_is_shared_between_threads_beside_a_large_one():
    large, small = ticket(0, [100] * 500), ticket(1, [100] * 4)
    assert [(pick.ticket.number, pick.count) for pick in plan([large, small], threads=2).picks] == [(1, 2)]


def test_pairs_of_very_different_length_do_not_share_a_batch():
    batch = plan([ticket(0, [500]), ticket(1, [20])], passed_over=3)
    assert [pick.ticket.number for pick in batch.picks] == [0]


def test_a_pair_longer_than_the_budget_is_scored_alone():
    batch = plan([ticket(0, [5000, 5000])], budget_tokens=64)
    assert [pick.count for pick in batch.picks] == [1]


def test_the_last_pairs_are_shared_between_threads():
    batch = plan([ticket(0, [100] * 4)], threads=2)
    assert sum(pick.count for pick in batch.picks) == 2


@pytest.mark.parametrize(("idle", "rows"), [(0, 10), (1, 5)])
def test_a_thread_leaves_a_part_of_little_work_only_to_one_that_is_idle(idle, rows):
    batch = plan([ticket(0, [16] * 10)], threads=2, idle=idle)
    assert sum(pick.count for pick in batch.picks) == rows


def test_documents_are_tokenised_before_they_are_scored():
    chunk = plan([ticket(0, [], unread=3)])
    assert isinstance(chunk, TokeniseChunk)
    assert (chunk.start, chunk.stop) == (0, 3)


def test_a_batch_with_room_waits_until_a_small_request_is_read_that_may_fill_it():
    read, unread, large = ticket(0, [100]), ticket(1, [], unread=1), ticket(2, [], unread=5000)
    chunk = plan([read, unread, large], budget_tokens=256)
    assert (chunk.ticket.number, chunk.led_by_oldest) == (1, False)
    assert isinstance(plan([read, large], budget_tokens=256), Batch), "a large request has batches of its own"
    assert isinstance(plan([ticket(0, [128] * 2), unread], budget_tokens=256, threads=2), Batch), "it is full"


@pytest.mark.parametrize("options", [{"idle": 1, "threads": 2}, {"read_first": 3}])
def test_a_batch_waits_for_few_requests_and_for_none_that_a_free_thread_can_read(options):
    assert isinstance(plan([ticket(0, [100]), ticket(1, [], unread=1)], budget_tokens=256, **options), Batch)


def test_an_urgent_batch_does_not_wait_for_requests_of_lower_priority():
    urgent, patient = ticket(0, [100]), ticket(1, [], unread=1)
    urgent.priority = -1
    assert isinstance(plan([urgent, patient], budget_tokens=256), Batch)


def test_a_batch_of_mixed_lengths_has_no_more_rows_than_any_other():
    batch = plan([ticket(0, [3] * 2000, padded=False)], budget_tokens=65_536, padded=False)
    assert sum(pick.count for pick in batch.picks) == ROWS[-1]


def test_a_huge_document_makes_a_chunk_of_its_own():
    made = Ticket(0, "q", ["x" * 10**6, "short"], lambda: None)
    chunk = plan([made])
    assert (chunk.start, chunk.stop) == (0, 1)


def test_there_is_no_plan_when_other_threads_hold_everything():
    assert plan([ticket(0, [])]) is None
    assert plan([]) is None


def leads(tickets, **options):
    return plan(tickets, **options).picks[0].ticket.number


def test_the_lower_priority_number_goes_first_whatever_its_size_and_age():
    usual, urgent, patient = ticket(0, [20]), ticket(1, [400] * 30), ticket(2, [20])
    urgent.priority, patient.priority = -1, 5
    assert leads([usual, urgent, patient]) == 1
    assert leads([usual, patient]) == 0


def test_the_oldest_leads_in_the_end_however_many_are_more_urgent():
    patient = ticket(0, [20])
    patient.priority = 1000
    urgent = [ticket(number, [20]) for number in range(1, 9)]
    assert leads([patient, *urgent]) != 0
    assert leads([patient, *urgent], passed_over=3) == 0


def test_among_requests_of_a_size_the_client_that_was_served_less_leads():
    greedy, modest = ticket(0, [100] * 4), ticket(1, [100] * 4)
    greedy.client, modest.client = "greedy", "modest"
    served = {"greedy": 5000, "modest": 100}
    made = plan([greedy, modest], served=served)
    assert made.picks[0].ticket is modest


def plan_on_gpu(tickets, *, at_work, budget_tokens=1024, most_batches=2, passed_over=0):
    """Plan for an engine that computes two batches at once, with the tickets sorted and in the index."""
    plans = []
    for few in (len(tickets), 0):
        backlog = backlog_of(tickets, budget_tokens * most_batches, padded=False, reads_ahead=True, few=few)
        made = plan_batch(
            backlog,
            passed_over=passed_over,
            budget_tokens=budget_tokens,
            threads=16,
            at_work=at_work,
            most_batches=most_batches,
        )
        assert (made is not None) == has_work(backlog, budget_tokens, at_work, most_batches)
        plans.append(made)
    assert plans[0] == plans[1]
    return plans[0]


def unpadded(number, lengths, **fields):
    return ticket(number, lengths, padded=False, **fields)


def rows_of(batch):
    return [(pick.ticket.number, pick.count) for pick in batch.picks]


def reads(plan):
    return plan.ticket.number if isinstance(plan, TokeniseChunk) else None


def test_a_gpu_takes_all_that_fits_however_many_threads_there_are():
    batch = plan_on_gpu([unpadded(0, [100] * 6), unpadded(1, [100] * 20)], at_work=0)
    assert rows_of(batch) == [(0, 6), (1, 4)]


def test_a_gpu_without_a_batch_gets_what_is_ready_at_once():
    batch = plan_on_gpu([unpadded(0, [100], unread=50), unpadded(1, [], unread=50)], at_work=0)
    assert rows_of(batch) == [(0, 1)]


def test_a_batch_behind_another_waits_until_it_is_full_or_all_is_read_that_may_fill_it():
    read, unread, large = unpadded(0, [100]), unpadded(1, [], unread=5), unpadded(2, [], unread=50_000)
    assert reads(plan_on_gpu([read, unread, large], at_work=1)) == 1
    assert rows_of(plan_on_gpu([read, large], at_work=1)) == [(0, 1)], "a large request fills no batch of a small one"
    assert rows_of(plan_on_gpu([unpadded(0, [100] * 11), unread], at_work=1)) == [(0, 10)], "it is full"
    assert reads(plan_on_gpu([unpadded(0, [100], unread=50_000)], at_work=1)) == 0, "but its own"


def test_an_urgent_batch_of_a_gpu_does_not_wait_for_requests_of_lower_priority():
    urgent, patient = unpadded(0, [100]), unpadded(1, [], unread=1)
    urgent.priority = -1
    assert rows_of(plan_on_gpu([urgent, patient], at_work=1)) == [(0, 1)]


@given(queues, st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(2, 4))
def test_nobody_computes_while_as_many_batches_are_in_hand_as_may_be(lengths, unread, at_work):
    both = zip(lengths, unread, strict=False)
    tickets = [unpadded(number, each, unread=more) for number, (each, more) in enumerate(both)]
    assert not isinstance(plan_on_gpu(tickets, at_work=at_work), Batch)


@given(queues, st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 1), st.integers(0, 7))
def test_no_plan_is_empty_while_there_is_work_and_a_gpu_has_a_place(lengths, unread, at_work, passed_over):
    both = zip(lengths, unread, strict=False)
    tickets = [unpadded(number, each, unread=more) for number, (each, more) in enumerate(both)]
    assert plan_on_gpu(tickets, at_work=at_work, passed_over=passed_over) is not None


def test_the_first_unread_request_of_any_size_is_read_ahead_of_a_gpu():
    large, larger, small = unpadded(0, [], unread=5000), unpadded(1, [], unread=50_000), unpadded(2, [], unread=1)
    assert reads(plan_on_gpu([larger, large, small], at_work=2)) == 2
    assert reads(plan_on_gpu([larger, large], at_work=2)) == 0
    assert plan_on_gpu([unpadded(0, [100])], at_work=2) is None


def test_reading_ahead_of_a_gpu_ends_but_for_small_requests():
    """Two batches of 1,024 tokens are a round."""
    enough = unpadded(0, [512] * (4 * ROUNDS_AHEAD), unread=50_000)
    assert plan_on_gpu([enough], at_work=2) is None
    assert reads(plan_on_gpu([enough, unpadded(1, [], unread=1)], at_work=2)) == 1
    less = unpadded(0, [512] * (4 * ROUNDS_AHEAD - 1), unread=50_000)
    assert reads(plan_on_gpu([less], at_work=2)) == 0


def test_a_small_request_passes_a_large_one_at_the_next_batch_of_a_gpu():
    large, small = unpadded(0, [100] * 500), unpadded(1, [100] * 2)
    for at_work in (0, 1):
        assert rows_of(plan_on_gpu([large, small], at_work=at_work)) == [(1, 2)]
        assert plan_on_gpu([large, small], at_work=at_work, passed_over=3).picks[0].ticket is large


def test_what_is_read_ahead_of_a_gpu_is_no_turn_of_the_oldest():
    assert plan_on_gpu([unpadded(0, [], unread=1)], at_work=0).joins
    assert plan_on_gpu([unpadded(0, [], unread=1)], at_work=2).joins


@pytest.mark.parametrize(("budget_tokens", "rows"), [(1024, ROWS[-1]), (65_536, 4096)])
def test_a_batch_of_a_gpu_may_have_as_many_rows_as_its_budget_has_steps_of_length(budget_tokens, rows):
    batch = plan_on_gpu([unpadded(0, [3] * 5000)], at_work=0, budget_tokens=budget_tokens)
    assert sum(pick.count for pick in batch.picks) == rows
