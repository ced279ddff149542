from types import SimpleNamespace

import numpy as np
import pytest

from webapp.engine.prepare import autotune
from webapp.engine.runtimes.stub import StubEngine


def tuned(monkeypatch, rates, threads=(2,), engine="openvino", recipe=None):
    """What is chosen when budgets are this fast; a list is consumed round by round."""
    monkeypatch.setattr(autotune, "open_engine", lambda *_: StubEngine())
    monkeypatch.setattr(autotune, "thread_counts", lambda: list(threads))
    monkeypatch.setattr(autotune, "batches", lambda _, budget, **_options: budget)
    monkeypatch.setattr(
        autotune, "measure", lambda sessions, budget, **_: autotune.Speed(rates(len(sessions), budget), 1)
    )
    return autotune.tune(None, SimpleNamespace(engine=engine, recipe=recipe), [("query", "document")])


def test_of_budgets_as_fast_as_each_other_the_smallest_is_taken(monkeypatch):
    tuning = tuned(monkeypatch, lambda _, budget: {256: 1000, 512: 1020, 1024: 1025}[budget])
    assert (tuning.batch_tokens, tuning.tokens_per_s) == (256, 1000)


def test_the_native_engine_works_in_groups_of_its_own(monkeypatch):
    assert tuned(monkeypatch, lambda _, budget: budget, engine="native").batch_tokens == 192


def test_a_decoder_on_the_native_engine_takes_the_budget_that_is_worth_it(monkeypatch):
    assert tuned(monkeypatch, lambda _, budget: budget, engine="native", recipe="any").batch_tokens == 1024


def test_a_budget_that_is_worth_it_is_taken(monkeypatch):
    assert tuned(monkeypatch, lambda _, budget: {256: 1000, 512: 1100, 1024: 1105}[budget]).batch_tokens == 512


def test_one_slow_round_does_not_count(monkeypatch):
    calls = []

    def rate(_, budget):
        calls.append(budget)
        return 10 if calls.count(budget) == 1 and budget == 256 else 1000

    assert tuned(monkeypatch, rate).batch_tokens == 256


def test_fewer_threads_than_cores_are_taken_where_they_are_faster(monkeypatch):
    tuning = tuned(monkeypatch, lambda threads, _: {4: 1000, 2: 1200}[threads], threads=(4, 2))
    assert tuning.engine_threads == 2


@pytest.mark.parametrize("padded", [True, False])
def test_every_pair_is_in_one_batch_and_no_batch_exceeds_the_budget(padded):
    session = StubEngine().open_session()
    pairs = [("query", "word " * count) for count in (1, 500, 3, 3, 40, 41, 300, 150)]
    batches = autotune.batches(autotune.encode(session, pairs), 256, padded=padded)
    assert sum(len(rows) for rows, _, _ in batches) == len(pairs)
    costs = [len(rows) * length if padded else tokens for rows, length, tokens in batches]
    assert all(cost <= 256 or len(rows) == 1 for cost, (rows, _, _) in zip(costs, batches, strict=True))
    assert all(length % 16 == 0 for _, length, _ in batches)
    assert len(batches) == (5 if padded else 4)


def test_a_measurement_ends_and_counts_the_tokens_of_all_sessions():
    session = StubEngine().open_session()
    batches = autotune.batches(autotune.encode(session, [("query", "word " * 30)] * 4), 256, padded=True)
    assert autotune.measure([session, session], batches).tokens_per_s > 0


@pytest.mark.parametrize("siblings", [True, False])
def test_thread_counts_are_the_cores_and_the_whole_ones(monkeypatch, siblings):
    monkeypatch.setattr(autotune.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(
        autotune.Path, "read_text", lambda path: f"{int(path.parts[-3][3:]) % 2}" if siblings else str(path)
    )
    assert autotune.thread_counts() == ([4, 2] if siblings else [4])
    assert np.all(np.diff(autotune.thread_counts()) < 0)


@pytest.mark.parametrize(("measuring_takes_s", "asked"), [(0.3, 9), (6.0, 3)])
def test_a_slow_model_is_measured_once_and_a_fast_one_three_times(monkeypatch, measuring_takes_s, asked):
    now, shares = [0.0], []

    def measured(*_, **_options):
        now[0] += measuring_takes_s
        return autotune.Speed(1000, 1)

    monkeypatch.setattr(autotune, "open_engine", lambda *_: StubEngine())
    monkeypatch.setattr(autotune, "thread_counts", lambda: [2])
    monkeypatch.setattr(autotune, "batches", lambda _, budget, **_options: budget)
    monkeypatch.setattr(autotune, "measure", measured)
    manifest = SimpleNamespace(engine="openvino", recipe=None)
    autotune.tune(None, manifest, [("query", "document")], shares.append, lambda: now[0])
    assert len(shares) == asked
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def tuned_on_a_card(monkeypatch, rates, read_tokens_per_s=10**9):
    """What is chosen on a card that computes (batches at once, budget) this fast."""
    seen = []

    def rate(budget, at_once):
        seen.append((at_once, budget))
        return autotune.Speed(rates(at_once, budget), 1)

    bench = SimpleNamespace(most_batches=2, measure=rate, read_tokens_per_s=read_tokens_per_s)
    monkeypatch.setattr(autotune, "Bench", lambda *_: bench)
    monkeypatch.setattr(autotune, "thread_counts", lambda: [16, 8])
    tuning = autotune.tune(None, SimpleNamespace(engine="torch", recipe=None), [("query", "document")])
    assert {budget for _, budget in seen} == set(autotune.CARD_BUDGETS_TOKENS)
    return tuning


def test_a_card_gets_large_budgets_and_as_many_batches_at_once_as_are_worth_it(monkeypatch):
    tuning = tuned_on_a_card(monkeypatch, lambda at_once, budget: budget * at_once)
    assert (tuning.batch_tokens, tuning.batches_at_once, tuning.engine_threads) == (65_536, 2, 0)
    tuning = tuned_on_a_card(monkeypatch, lambda _, budget: 1000 if budget > 16_384 else 990)
    assert (tuning.batch_tokens, tuning.batches_at_once) == (16_384, 1)


def test_a_card_is_no_faster_than_its_tokens_are_read(monkeypatch):
    tuning = tuned_on_a_card(monkeypatch, lambda *_: 1e7, read_tokens_per_s=1e5)
    assert tuning.tokens_per_s == 16 * 1e5 * autotune.READERS_SHARE


def test_a_card_is_measured_by_the_clock_and_a_processor_by_the_time_that_it_computes(monkeypatch):
    clocks = iter([0.0, 100.0])
    monkeypatch.setattr(autotune, "MEASURED_S", -1.0)
    monkeypatch.setattr(autotune.time, "process_time", lambda: next(clocks))
    session = StubEngine().open_session()
    made = autotune.batches(autotune.encode(session, [("query", "word " * 30)] * 4), 256, padded=True)
    tokens = sum(batch[2] for batch in made[:1])
    assert autotune.measure([session], made).tokens_per_s == pytest.approx(tokens / 100)
    monkeypatch.setattr(autotune.time, "process_time", lambda: 0.0)
    assert autotune.measure([session], made, by_clock=True).tokens_per_s > tokens
