"""Which engine serves: first by an order, then by a comparison with fake measurements, a fake clock and real files."""

import os

import msgspec
import pytest
from manifest_kit import manifest

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.engine import artifact
from webapp.engine.artifact import (
    MANIFEST,
    VERDICT,
    Verdict,
    artifact_dir,
    comparison_is_due,
    comparison_summary,
    first_artifact_dir,
    machine,
    read_manifest,
    read_verdict,
    write_json,
)
from webapp.engine.prepare import autotune
from webapp.engine.prepare.in_turn import BusyError, Outcome
from webapp.engine.runtimes import Candidate, candidates
from webapp.stack.releases import comparison as program
from webapp.stack.releases.comparison import Built, RivalRefusedError, compare
from webapp.stack.releases.steps import RefusedError

RIVAL = Candidate("openvino", "int8")


def made(directory, engine="native", precision="int8"):
    """An artifact's directory with a manifest and nothing else."""
    written = manifest(engine=engine, precision=precision, chosen_because=f"{engine} passes the gate")
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(written))
    return Built(directory, written, ours=True)


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
    compare(serving, [RIVAL], build=lambda _: rival, measure=lambda *_: outcome, release=release)


def test_a_choice_that_is_confirmed_is_no_release_and_is_not_measured_again(settings, serving, rival):
    assert comparison_is_due(settings)
    run(serving, rival, SLOWER)
    said = "compared: openvino int8 1.05 times native int8 (1,050 and 1,000 tokens a second; more than 1.1 times as"
    assert comparison_summary(settings).startswith(said)
    assert comparison_summary(settings).endswith("; native int8 stays")
    assert not comparison_is_due(settings)
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
        found = read_verdict(serving.directory)
        released.append((built.directory.name, found.settled))
        return 2

    run(serving, rival, FASTER, release)
    assert released == [("the-rival", False)], "a release that is killed is tried again"
    assert comparison_summary(settings).endswith("; it became release 2")
    assert "openvino int8 1.30 times native int8" in read_manifest(rival.directory).chosen_because
    assert not comparison_is_due(settings)
    assert artifact_dir(settings) == serving.directory, "a rollback leads here"
    assert artifact_dir(settings.model_copy(update={"faster_artifact": "the-rival"})) == rival.directory


def test_a_release_that_is_refused_is_not_tried_again(settings, serving, rival):
    def release(_built):
        raise RefusedError("room", "two colors don't fit")

    run(serving, rival, FASTER, release)
    assert "native int8 stays, for the release was refused at room" in comparison_summary(settings)
    assert not comparison_is_due(settings)


def test_an_engine_that_fails_the_gate_is_not_built_again(settings, serving):
    def build(_):
        raise RivalRefusedError("openvino int8 differs too much")

    compare(serving, [RIVAL], build=build, measure=pytest.fail, release=pytest.fail)
    refused = "openvino int8 can't serve this model: openvino int8 differs too much; native int8 stays"
    assert comparison_summary(settings) == refused
    assert not comparison_is_due(settings)


def test_other_precisions_are_tried_until_one_is_faster(settings, serving):
    precisions = ("int8", "bf16", "fp32")
    rivals = {each: made(settings.models_dir / each, "openvino", precision=each) for each in precisions}
    outcomes = iter([SLOWER, FASTER])
    compare(
        serving,
        [Candidate("openvino", each) for each in precisions],
        build=lambda rival: rivals[rival.precision],
        measure=lambda *_: next(outcomes),
        release=lambda _: 2,
    )
    summary = comparison_summary(settings)
    assert "openvino int8 1.05 times native int8" in summary
    assert "openvino bf16 1.30 times native int8" in summary
    assert [rivals[each].directory.exists() for each in precisions] == [False, True, True]
    assert read_verdict(serving.directory).faster == "bf16"


def test_a_comparison_that_was_stopped_goes_on_with_the_engines_that_are_left(settings, serving, rival):
    rivals = [RIVAL, Candidate("openvino", "fp32")]
    outcomes = iter([SLOWER, None])

    def measure(*_):
        if outcome := next(outcomes):
            return outcome
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(serving, rivals, build=lambda _: rival, measure=measure, release=pytest.fail)
    assert comparison_is_due(settings)
    built = []

    def build(candidate):
        built.append(str(candidate))
        return rival

    compare(serving, rivals, build=build, measure=lambda *_: SLOWER, release=pytest.fail)
    assert built == ["openvino fp32"]
    assert "openvino int8 1.05 times native int8" in comparison_summary(settings)
    assert "openvino fp32 1.05 times native int8" in comparison_summary(settings)
    assert not comparison_is_due(settings)


def test_an_engine_that_cannot_be_built_now_holds_up_no_other_and_is_tried_again(settings, serving, rival):
    def build(candidate):
        if candidate == RIVAL:
            raise SetupError("memory is short")
        return rival

    rivals = [RIVAL, Candidate("openvino", "fp32")]
    with pytest.raises(SetupError, match="memory is short"):
        compare(serving, rivals, build=build, measure=lambda *_: SLOWER, release=pytest.fail)
    assert list(read_verdict(serving.directory).findings) == ["openvino fp32"]
    assert comparison_is_due(settings)


def test_what_could_not_be_found_out_is_tried_at_the_next_start(settings, serving, rival):
    def measure(*_):
        raise BusyError("no quiet moment")

    with pytest.raises(BusyError):
        compare(serving, [RIVAL], build=lambda _: rival, measure=measure, release=pytest.fail)
    assert comparison_is_due(settings)


@pytest.mark.parametrize("setting", ["RERANK_ENGINE", "RERANK_PRECISION"])
@pytest.mark.parametrize("value", ["auto", "another"])
def test_nothing_is_compared_where_the_engine_or_the_precision_is_set(serving, monkeypatch, setting, value):
    named = {"RERANK_ENGINE": "openvino", "RERANK_PRECISION": "fp32"}
    monkeypatch.setenv(setting, named[setting] if value == "another" else value)
    assert serving.directory.exists()
    assert not comparison_is_due(load_settings())
    assert comparison_summary(load_settings()) == ""


def test_nothing_is_compared_where_a_file_sets_the_engine(serving, monkeypatch, tmp_path):
    file = tmp_path / "reranking.yaml"
    file.write_text("engine: native\n")
    monkeypatch.setenv("RERANK_CONFIG", str(file))
    assert serving.directory.exists()
    assert not comparison_is_due(load_settings())


def test_nothing_is_compared_without_torch(settings, serving, monkeypatch):
    assert serving.directory.exists()
    monkeypatch.setattr(artifact, "find_spec", lambda _: None)
    assert not comparison_is_due(settings)
    assert comparison_summary(settings) == "other engines were not compared: no model can be prepared here"


def test_nothing_is_compared_where_models_are_read_only(settings, serving, monkeypatch):
    assert serving.directory.exists()
    monkeypatch.setattr(artifact.os, "access", lambda _path, mode: mode != os.W_OK)
    assert not comparison_is_due(settings)


def test_another_machine_compares_again(settings, serving, rival, monkeypatch):
    run(serving, rival, SLOWER)
    monkeypatch.setattr(artifact, "machine", lambda: "another x64")
    assert comparison_is_due(settings)


def test_a_model_prepared_again_is_served_by_the_first_engine_and_compared_again(settings, serving, rival):
    run(serving, rival, FASTER, lambda _: 2)
    chosen = settings.model_copy(update={"faster_artifact": "the-rival"})
    assert artifact_dir(chosen) == rival.directory
    (serving.directory / VERDICT).unlink()  # `prepare --again` replaces the directory
    assert artifact_dir(chosen) == serving.directory
    assert comparison_is_due(chosen)


def test_a_faster_artifact_that_is_gone_is_not_missed(settings, serving, rival):
    run(serving, rival, FASTER, lambda _: 2)
    (rival.directory / MANIFEST).unlink()
    assert artifact_dir(settings.model_copy(update={"faster_artifact": "the-rival"})) == serving.directory


def test_a_release_that_serves_but_was_killed_before_that_was_noted_is_not_made_again(settings, serving, rival):
    note = Verdict(summary="", machine=machine(), faster=rival.directory.name, settled=False)
    write_json(serving.directory / VERDICT, note)
    assert comparison_is_due(settings)
    assert not comparison_is_due(settings.model_copy(update={"faster_artifact": "the-rival"}))


def test_a_damaged_verdict_is_none(serving):
    (serving.directory / VERDICT).write_text("{")
    assert read_verdict(serving.directory) is None


class Programs:
    """Supervisor's, which note what they are told."""

    def __init__(self, pid=0):
        self.told = []
        self._pid = pid

    def of(self, name):
        assert name == program.PROGRAM
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
    program.stop(others)
    program.stop(own)
    assert (others.told, own.told) == ([("stop", "compare")], [])


def test_a_comparison_is_started_only_where_it_is_due(settings, serving, rival):
    programs = Programs()
    program.start_if_due(settings, programs)
    assert programs.told == [("start", "compare")]
    run(serving, rival, SLOWER)
    program.start_if_due(settings, programs)
    assert programs.told == [("start", "compare")]


def test_starting_a_comparison_in_a_stack_that_stops_raises_nothing(settings, serving):
    class Gone(Programs):
        def start(self, _name):
            raise SetupError("no stack runs")

    assert serving.directory.exists()
    program.start_if_due(settings, Gone())


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("fast_int8", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_the_order_of_engines_follows_from_the_processor_alone(monkeypatch, native, fast_int8, has_bf16):
    monkeypatch.setattr("webapp.engine.runtimes.native.instruction_sets", lambda: ["avx2", "scalar"] if native else [])
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_fast_int8", lambda: fast_int8)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_bf16", lambda: has_bf16)
    order = [("native int8", native), ("openvino int8", fast_int8), ("openvino bf16", has_bf16)]
    expected = [*(name for name, here in order if here), "openvino fp32"]
    assert [str(each) for each in candidates(Settings(), lambda _: None)] == expected


@pytest.mark.parametrize(("engine", "precision"), [("native", "fp32"), ("torch", "int8")])
def test_a_precision_that_an_engine_does_not_have_is_refused_by_both_names(engine, precision):
    said = f"RERANK_ENGINE={engine}, RERANK_PRECISION={precision}: {engine} does not compute in {precision}; set one"
    with pytest.raises(SetupError, match=said):
        candidates(Settings(engine=engine, precision=precision), lambda _: None)


def test_what_this_processor_can_t_do_is_refused_where_it_is_asked_for_and_told_where_it_is_not(monkeypatch):
    monkeypatch.setattr("webapp.engine.runtimes.native.instruction_sets", list)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_bf16", lambda: False)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_fast_int8", lambda: False)
    for asked, begin, why in (
        ({"engine": "native"}, "RERANK_ENGINE=native: ", "not built here"),
        ({"precision": "bf16"}, "RERANK_PRECISION=bf16: ", "no bf16"),
    ):
        with pytest.raises(SetupError, match=f"^{begin}.*{why}.*; set it to auto"):
            candidates(Settings(**asked), lambda _: None)
    slow = candidates(Settings(engine="openvino", precision="int8"), lambda _: None)
    assert slow == [Candidate("openvino", "int8")], "what is only slow may be asked for"
    told = []
    assert candidates(Settings(), told.append) == [Candidate("openvino", "fp32")]
    assert [line.partition(" is left out: ")[0] for line in told] == ["native int8", "openvino int8"]


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
