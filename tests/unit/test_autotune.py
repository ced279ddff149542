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
    monkeypatch.setattr(autotune, "measure", lambda sessions, budget: autotune.Speed(rates(len(sessions), budget), 1))
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

    def measured(*_):
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
