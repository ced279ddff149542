"""bench/queueing.py, bench/scheduled.py: a simulation that gets known results wrong explains nothing."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


queueing, scheduled = load("queueing"), load("scheduled")
Absence, Fleet, Requests, Retrying = queueing.Absence, queueing.Fleet, queueing.Requests, queueing.Retrying

SERVICE_S = 0.1


def requests_at(utilisation, *, replicas=1, seconds=4000.0, law="fixed", seed=1, **fields):
    at = queueing.poisson(utilisation * replicas / SERVICE_S, seconds / replicas, seed)
    draw = np.random.default_rng(seed + 1)
    work = np.full(len(at), SERVICE_S) if law == "fixed" else draw.exponential(SERVICE_S, len(at))
    return Requests(at, work, **fields)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_replica_with_exponential_work_is_m_m_1(utilisation):
    requests = requests_at(utilisation, law="exponential", seconds=10_000)
    outcome = queueing.simulate(requests, Fleet(1))
    slack = (1 - utilisation) / SERVICE_S  # the sojourn time is exponential with this rate
    assert outcome.latency_s.mean() == pytest.approx(1 / slack, rel=0.1)
    assert outcome.quantile_s(0.99) == pytest.approx(math.log(100) / slack, rel=0.15)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_replica_with_fixed_work_is_m_d_1(utilisation):
    outcome = queueing.simulate(requests_at(utilisation), Fleet(1))
    waits_s = outcome.latency_s.mean() - SERVICE_S
    assert waits_s == pytest.approx(utilisation * SERVICE_S / (2 * (1 - utilisation)), rel=0.1)


@pytest.mark.parametrize("policy", ["random", "round-robin", "least-ongoing", "power-of-two"])
def test_every_request_is_answered_once_and_no_work_is_lost(policy):
    requests = requests_at(0.7, replicas=5, seconds=500, law="exponential")
    outcome = queueing.simulate(requests, Fleet(5, policy, absences=(Absence(2, 10, 40), Absence(4, 20, 30))))
    assert (outcome.answered, outcome.tries, outcome.refused) == (1.0, len(requests.at_s), 0)
    assert outcome.busy_s.sum() == pytest.approx(requests.work_s.sum())
    assert (outcome.latency_s >= requests.work_s - 1e-9).all()


def test_at_random_each_replica_is_a_queue_of_its_own():
    alone = queueing.simulate(requests_at(0.7, seconds=10_000), Fleet(1))
    many = queueing.simulate(requests_at(0.7, replicas=20, seconds=10_000), Fleet(20, "random"))
    assert many.quantile_s(0.5) == pytest.approx(alone.quantile_s(0.5), rel=0.1)
    assert many.quantile_s(0.99) == pytest.approx(alone.quantile_s(0.99), rel=0.15)


def test_choosing_between_two_replicas_is_far_better_than_choosing_at_random():
    requests = requests_at(0.8, replicas=20, seconds=4000)
    random, two, least = (
        queueing.simulate(requests, Fleet(20, policy)).quantile_s(0.99)
        for policy in ("random", "power-of-two", "least-ongoing")
    )
    assert least < two < random / 2


def test_an_overloaded_fleet_answers_what_it_can_in_time_only_if_it_sheds():
    requests = requests_at(1.5, replicas=4, seconds=400)
    shedding = queueing.simulate(requests, Fleet(4, timeout_s=1.0))
    patient = queueing.simulate(requests, Fleet(4, timeout_s=1.0, sheds=False))
    assert shedding.quantile_s(1.0) <= 1.0 + 1e-9
    assert shedding.answered == pytest.approx(1 / 1.5, rel=0.05)
    assert shedding.refused == np.isnan(shedding.latency_s).sum()
    assert patient.answered < 0.2


def test_a_budget_bounds_tries_and_without_one_each_failure_is_tried_to_the_end():
    requests = requests_at(3.0, replicas=2, seconds=200)
    fleet, delays_s = Fleet(2, timeout_s=0.3), (0.1, 0.4, 1.6, 6.4)
    calls = len(requests.at_s)
    endless = queueing.simulate(requests, fleet, Retrying(delays_s))
    budgeted = queueing.simulate(requests, fleet, Retrying(delays_s, share=0.2, burst=10))
    assert calls * 1.15 < budgeted.tries <= calls * 1.2 + 10
    assert endless.tries > calls * 3


def test_a_cache_spares_work_and_one_that_was_away_is_cold():
    keys = queueing.zipf_keys(4000, 100, seed=3)
    at = np.arange(4000) * SERVICE_S
    requests = Requests(at, np.full(4000, SERVICE_S), keys)
    warm = queueing.simulate(requests, Fleet(1, cached=100, hit=0.1))
    assert warm.hit.sum() == 4000 - len(set(keys.tolist()))
    assert warm.busy_s[0] == pytest.approx(SERVICE_S * (4000 - 0.9 * warm.hit.sum()))
    away = Absence(0, at[2000] - 0.01, at[2000] - 0.005)  # between two requests
    assert queueing.simulate(requests, Fleet(1, cached=100, hit=0.1, absences=(away,))).hit.sum() < warm.hit.sum() - 50
    assert queueing.simulate(requests, Fleet(1, cached=10, hit=0.1)).hit.sum() < warm.hit.sum()


def test_the_same_seed_gives_the_same_outcome():
    requests = requests_at(0.7, replicas=3, seconds=100)
    one, again, other = (queueing.simulate(requests, Fleet(3, "random"), seed=seed) for seed in (1, 1, 2))
    assert (one.latency_s == again.latency_s).all()
    assert (one.latency_s != other.latency_s).any()


@pytest.mark.parametrize("documents", [1, 10])
def test_with_requests_of_one_size_the_service_s_own_scheduler_is_first_come_first_served(documents):
    requests = requests_at(0.7, replicas=2, seconds=100)
    texts = [[f"{number}-{place}" for place in range(documents)] for number in range(len(requests.at_s))]
    took_s = scheduled.simulate(
        requests.at_s,
        texts,
        {text: 400 // documents for each in texts for text in each},
        replicas=2,
        token_s=SERVICE_S / 400,
        request_s=0,
        budget_tokens=256,
        seed=1,
    )
    plain = queueing.simulate(requests, Fleet(2), seed=1)
    assert np.sort(took_s) == pytest.approx(np.sort(plain.latency_s), abs=1e-6)
