"""Two engines measured in turn while the service is idle, with fake measurements and a fake clock."""

from dataclasses import dataclass

import pytest

from webapp.engine.prepare import in_turn
from webapp.engine.prepare.in_turn import BusyError, Outcome, measure_in_turn
from webapp.stack.releases import benchmark
from webapp.stack.releases.benchmark import IdleDetector, Load


@dataclass
class Speed:
    tokens_per_s: float
    share: float = 1.0


class Engines:
    """Two engines and a service, which note what happens to them."""

    def __init__(self, serving, rival, shares=(), disturbed=()):
        self.seen = []
        self._speeds = {"serving": serving, "rival": rival}
        self._shares = iter(shares)
        self._disturbed = iter(disturbed)

    def _measure(self, name):
        self.seen.append(name)
        speed = self._speeds[name]
        return Speed(speed(self.seen.count(name)) if callable(speed) else speed, next(self._shares, 1.0))

    def serving(self):
        return self._measure("serving")

    def rival(self):
        return self._measure("rival")

    def wait(self):
        self.seen.append("idle")

    def lasted(self):
        return not next(self._disturbed, False)

    def in_turn(self):
        return measure_in_turn(self.serving, self.rival, self)


def test_engines_are_measured_in_turn_and_each_round_waits_for_an_idle_service():
    engines = Engines(100, 130)
    outcome = engines.in_turn()
    assert engines.seen == ["idle", "serving", "rival"] * (1 + in_turn.ROUNDS), "the first round compiles"
    assert len(outcome.rounds) == in_turn.ROUNDS
    assert outcome.rival_is_faster


@pytest.mark.parametrize(
    ("ratios", "faster"),
    [
        ([1.09] * 7, False),
        ([1.2] * 7, True),
        ([1.2] * 5 + [0.5] * 2, True),
        ([1.2] * 4 + [1.0] * 3, False),
        ([9.0] * 3 + [0.9] * 4, False),
    ],
)
def test_a_rival_must_be_faster_by_the_margin_in_most_rounds(ratios, faster):
    assert Outcome(tuple((1000.0, 1000.0 * ratio) for ratio in ratios)).rival_is_faster is faster


def test_a_round_that_traffic_disturbs_is_thrown_away_and_repeated():
    engines = Engines(100, lambda count: 1 if count == 3 else 130, disturbed=[False, True])
    outcome = engines.in_turn()
    assert {rival for _, rival in outcome.rounds} == {130}
    assert engines.seen.count("rival") == 1 + in_turn.ROUNDS + 1


def test_a_round_in_which_others_had_the_cores_is_thrown_away_and_repeated():
    engines = Engines(100, 130, shares=[1, 1, 1, 0.5, 0.5, 1])
    assert len(engines.in_turn().rounds) == in_turn.ROUNDS
    assert engines.seen.count("rival") == 1 + in_turn.ROUNDS + 2


def test_a_machine_without_a_quiet_moment_decides_nothing():
    with pytest.raises(BusyError):
        Engines(100, 130, shares=[0.1] * 1000).in_turn()


class Service:
    """Tells its load by a script; time passes when it is waited for."""

    def __init__(self, *loads):
        self.now = 0.0
        self._loads = loads

    def ask(self):
        return self._loads[min(int(self.now), len(self._loads) - 1)]

    def detector(self):
        return IdleDetector(self.ask, lambda: self.now, self._sleep)

    def _sleep(self, seconds):
        self.now += seconds


def test_idle_is_ten_seconds_without_a_request_at_work_or_answered():
    busy = [Load(1, 5), Load(0, 6), Load(0, 6), Load(0, 7)]
    service = Service(*busy, *[Load(0, 7)] * 100)
    service.detector().wait()
    assert service.now == len(busy) - 1 + benchmark.IDLE_S


def test_a_service_that_does_not_answer_is_not_idle():
    service = Service(*[benchmark.UNKNOWN] * 30, Load(0, 0))
    service.detector().wait()
    assert service.now == 30 + benchmark.IDLE_S


def test_a_request_ends_idleness_and_ten_new_seconds_begin():
    service = Service(*[Load(0, 0)] * 20, Load(0, 1))
    idle = service.detector()
    idle.wait()
    assert idle.lasted()
    service.now = 20
    assert not idle.lasted()
    asked = service.now
    idle.wait()
    assert service.now == asked + benchmark.IDLE_S
