"""Which engine serves: first by an order, then by a comparison with fake measurements, a fake clock and real files."""

import os
from dataclasses import dataclass

import msgspec
import pytest

from webapp.engine import artifact, comparison, verdict
from webapp.engine.artifact import FORMAT, MANIFEST, Manifest, artifact_dir, first_artifact_dir, read_manifest
from webapp.engine.prepare import autotune
from webapp.engine.prepare.candidates import Candidate, candidates
from webapp.engine.template import Template
from webapp.engine.verdict import Verdict
from webapp.errors import SetupError
from webapp.releases import comparing, idleness, rivals
from webapp.releases.compare import Built, RivalRefusedError, compare
from webapp.releases.idleness import Idleness, Load
from webapp.releases.rivals import BusyError, Outcome, measure_in_turn
from webapp.releases.steps import RefusedError
from webapp.settings import Settings, load_settings
from webapp.types import Tuning

RIVAL = Candidate("openvino", "int8")


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
    assert engines.seen == ["idle", "serving", "rival"] * (1 + rivals.ROUNDS), "the first round compiles"
    assert len(outcome.rounds) == rivals.ROUNDS
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
    assert engines.seen.count("rival") == 1 + rivals.ROUNDS + 1


def test_a_round_in_which_others_had_the_cores_is_thrown_away_and_repeated():
    engines = Engines(100, 130, shares=[1, 1, 1, 0.5, 0.5, 1])
    assert len(engines.in_turn().rounds) == rivals.ROUNDS
    assert engines.seen.count("rival") == 1 + rivals.ROUNDS + 2


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

    def idleness(self):
        return Idleness(self.ask, lambda: self.now, self._sleep)

    def _sleep(self, seconds):
        self.now += seconds


def test_idle_is_ten_seconds_without_a_request_at_work_or_answered():
    busy = [Load(1, 5), Load(0, 6), Load(0, 6), Load(0, 7)]
    service = Service(*busy, *[Load(0, 7)] * 100)
    service.idleness().wait()
    assert service.now == len(busy) - 1 + idleness.IDLE_S


def test_a_service_that_does_not_answer_is_not_idle():
    service = Service(*[idleness.UNKNOWN] * 30, Load(0, 0))
    service.idleness().wait()
    assert service.now == 30 + idleness.IDLE_S


def test_a_request_ends_idleness_and_ten_new_seconds_begin():
    service = Service(*[Load(0, 0)] * 20, Load(0, 1))
    idle = service.idleness()
    idle.wait()
    assert idle.lasted()
    service.now = 20
    assert not idle.lasted()
    asked = service.now
    idle.wait()
    assert service.now == asked + idleness.IDLE_S


def made(directory, engine="native"):
    """An artifact's directory with a manifest and nothing else."""
    manifest = Manifest(
        format=FORMAT,
        model="a",
        revision="1",
        kind="cross-encoder",
        engine=engine,
        precision="int8",
        score_scale="sigmoid",
        template=Template(prefix=[], middle=[], suffix=[], document_type=0, pad_id=0, max_length_tokens=8),
        prompts=("", ""),
        source="",
        substitute_for=None,
        fidelity={},
        tuning=Tuning(),
        chosen_because=f"{engine} passes the gate",
        files={},
        versions={},
        prepared_at="",
    )
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return Built(directory, manifest, ours=True)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANK_CONFIG", "")
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    return load_settings()


@pytest.fixture
def serving(settings):
    return made(first_artifact_dir(settings))


@pytest.fixture
def rival(settings):
    return made(settings.models_dir / "the-rival", "openvino")


SLOWER, FASTER = (Outcome(((1000.0, 1000.0 * ratio),) * 7) for ratio in (1.05, 1.3))


def run(serving, rival, outcome, release=lambda _: pytest.fail("no release is due")):
    compare(serving, RIVAL, build=lambda _: rival, measure=lambda *_: outcome, release=release)


def test_a_choice_that_is_confirmed_is_no_release_and_is_not_measured_again(settings, serving, rival):
    assert comparison.is_due(settings)
    run(serving, rival, SLOWER)
    said = "compared: openvino int8 1.05 times native int8 (1,050 and 1,000 tokens a second; more than 1.1 times as"
    assert comparison.said(settings).startswith(said)
    assert comparison.said(settings).endswith("; native stays")
    assert not comparison.is_due(settings)
    assert artifact_dir(settings) == serving.directory
    assert not rival.directory.exists(), "nobody serves it"


def test_an_artifact_that_was_there_before_the_comparison_stays(serving, rival):
    run(serving, found_there(rival), SLOWER)
    assert rival.directory.exists()


def found_there(built):
    return Built(built.directory, built.manifest, ours=False)


def test_a_faster_engine_becomes_a_release_that_says_why(settings, serving, rival):
    released = []

    def release(built):
        found = verdict.read(serving.directory)
        released.append((built.directory.name, found.settled))
        return 2

    run(serving, rival, FASTER, release)
    assert released == [("the-rival", False)], "a release that is killed is tried again"
    assert comparison.said(settings).endswith("; it became release 2")
    assert "openvino int8 1.30 times native int8" in read_manifest(rival.directory).chosen_because
    assert not comparison.is_due(settings)
    assert artifact_dir(settings) == serving.directory, "a rollback leads here"
    assert artifact_dir(settings.model_copy(update={"faster_artifact": "the-rival"})) == rival.directory


def test_a_release_that_is_refused_is_not_tried_again(settings, serving, rival):
    def release(_built):
        raise RefusedError("room", "two colours don't fit")

    run(serving, rival, FASTER, release)
    assert "native stays, for the release was refused at room" in comparison.said(settings)
    assert not comparison.is_due(settings)


def test_an_engine_that_fails_the_gate_is_not_built_again(settings, serving):
    def build(_):
        raise RivalRefusedError("openvino int8 differs too much")

    compare(serving, RIVAL, build=build, measure=pytest.fail, release=pytest.fail)
    assert comparison.said(settings).startswith("native int8 is the only engine here for this model: openvino int8")
    assert not comparison.is_due(settings)


def test_what_could_not_be_found_out_is_tried_at_the_next_start(settings, serving, rival):
    def measure(*_):
        raise BusyError("no quiet moment")

    with pytest.raises(BusyError):
        compare(serving, RIVAL, build=lambda _: rival, measure=measure, release=pytest.fail)
    assert comparison.is_due(settings)


@pytest.mark.parametrize("setting", ["RERANK_ENGINE", "RERANK_PRECISION"])
@pytest.mark.parametrize("value", ["auto", "another"])
def test_nothing_is_compared_where_the_engine_or_the_precision_is_set(serving, monkeypatch, setting, value):
    named = {"RERANK_ENGINE": "openvino", "RERANK_PRECISION": "fp32"}
    monkeypatch.setenv(setting, named[setting] if value == "another" else value)
    assert serving.directory.exists()
    assert not comparison.is_due(load_settings())
    assert comparison.said(load_settings()) == ""


def test_nothing_is_compared_where_a_file_sets_the_engine(serving, monkeypatch, tmp_path):
    file = tmp_path / "reranking.yaml"
    file.write_text("engine: native\n")
    monkeypatch.setenv("RERANK_CONFIG", str(file))
    assert serving.directory.exists()
    assert not comparison.is_due(load_settings())


def test_nothing_is_compared_without_torch(settings, serving, monkeypatch):
    assert serving.directory.exists()
    monkeypatch.setattr(comparison, "find_spec", lambda _: None)
    assert not comparison.is_due(settings)
    assert comparison.said(settings) == "other engines were not compared: no model can be prepared here"


def test_nothing_is_compared_where_models_are_read_only(settings, serving, monkeypatch):
    assert serving.directory.exists()
    monkeypatch.setattr(comparison.os, "access", lambda _path, mode: mode != os.W_OK)
    assert not comparison.is_due(settings)


def test_another_machine_compares_again(settings, serving, rival, monkeypatch):
    run(serving, rival, SLOWER)
    monkeypatch.setattr(verdict, "machine", lambda: "another x64")
    assert comparison.is_due(settings)


def test_a_model_prepared_again_is_served_by_the_first_engine_and_compared_again(settings, serving, rival):
    run(serving, rival, FASTER, lambda _: 2)
    chosen = settings.model_copy(update={"faster_artifact": "the-rival"})
    assert artifact_dir(chosen) == rival.directory
    (serving.directory / verdict.FILE).unlink()  # as `prepare --again` does, which replaces the directory
    assert artifact_dir(chosen) == serving.directory
    assert comparison.is_due(chosen)


def test_a_faster_artifact_that_is_gone_is_not_missed(settings, serving, rival):
    run(serving, rival, FASTER, lambda _: 2)
    (rival.directory / MANIFEST).unlink()
    assert artifact_dir(settings.model_copy(update={"faster_artifact": "the-rival"})) == serving.directory


def test_a_release_that_serves_but_was_killed_before_that_was_noted_is_not_made_again(settings, serving, rival):
    note = Verdict(said="", machine=verdict.machine(), faster=rival.directory.name, settled=False)
    verdict.write(serving.directory, note)
    assert comparison.is_due(settings)
    assert not comparison.is_due(settings.model_copy(update={"faster_artifact": "the-rival"}))


def test_a_damaged_verdict_is_none(serving):
    (serving.directory / verdict.FILE).write_text("{")
    assert verdict.read(serving.directory) is None


class Programs:
    """Supervisor's, which note what they are told."""

    def __init__(self, pid=0):
        self.told = []
        self._pid = pid

    def of(self, name):
        assert name == comparing.PROGRAM
        return self

    @property
    def pid(self):
        return self._pid

    def start(self, name):
        self.told.append(("start", name))

    def stop(self, name, **_):
        self.told.append(("stop", name))


def test_a_deploy_ends_a_comparison_but_not_the_one_that_makes_it():
    others, own = Programs(pid=1), Programs(pid=os.getpid())
    comparing.stop(others)
    comparing.stop(own)
    assert (others.told, own.told) == ([("stop", "compare")], [])


def test_a_comparison_is_started_only_where_it_is_due(settings, serving, rival):
    programs = Programs()
    comparing.start_if_due(settings, programs)
    assert programs.told == [("start", "compare")]
    run(serving, rival, SLOWER)
    comparing.start_if_due(settings, programs)
    assert programs.told == [("start", "compare")]


def test_a_stack_that_stops_is_no_trouble_for_who_wants_to_start_a_comparison(settings, serving):
    class Gone(Programs):
        def start(self, _name):
            raise SetupError("no stack runs")

    assert serving.directory.exists()
    comparing.start_if_due(settings, Gone())


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("fast_int8", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_the_order_of_engines_follows_from_the_processor_alone(monkeypatch, native, fast_int8, has_bf16):
    monkeypatch.setattr("webapp.engine.prepare.candidates.library", lambda: object() if native else None)
    monkeypatch.setattr("webapp.engine.openvino_engine.has_fast_int8", lambda: fast_int8)
    monkeypatch.setattr("webapp.engine.openvino_engine.has_bf16", lambda: has_bf16)
    order = [("native int8", native), ("openvino int8", fast_int8), ("openvino bf16", has_bf16)]
    expected = [*(name for name, here in order if here), "openvino fp32"]
    assert [str(each) for each in candidates(Settings(), lambda _: None)] == expected


class Clocks:
    """Processor time and the time on the wall; others make the second pass faster."""

    def __init__(self, slowdown):
        self.used = self.wall = 0.0
        self._slowdown = slowdown

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.used

    def score(self, _pairs, _length):
        self.used += 0.01
        self.wall += 0.01 * self._slowdown


@pytest.mark.parametrize("slowdown", [1, 4])
def test_an_engine_is_as_fast_on_a_busy_machine_as_on_an_idle_one(monkeypatch, slowdown):
    clocks = Clocks(slowdown)
    monkeypatch.setattr(autotune, "time", clocks)
    found = autotune.measure([clocks], [([], 16, 40)])
    assert found.tokens_per_s == pytest.approx(4000)
    assert found.share == pytest.approx(1 / slowdown)


def test_artifacts_are_named_by_what_was_asked_for(settings):
    assert artifact.artifact_dir(settings) == first_artifact_dir(settings)
