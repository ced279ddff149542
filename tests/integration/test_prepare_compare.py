"""`reranking prepare --compare`: every engine that passes the gate is built, and the fastest is kept."""

import pytest
from native_kit import needs_kernels

from webapp.config.settings import Settings
from webapp.engine.artifact import artifact_dir, read_manifest, read_verdict
from webapp.engine.loader import load_engine
from webapp.engine.prepare import build, in_turn, pipeline
from webapp.engine.runtimes import Candidate

pytestmark = [pytest.mark.filterwarnings("ignore"), needs_kernels]

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}


@pytest.mark.parametrize("faster", ["native", "openvino"])
def test_prepare_takes_the_fastest_of_all_engines_that_pass_the_gate(bert, tmp_path, monkeypatch, faster):
    def measured(best, rival, _quiet):
        assert best().tokens_per_s
        assert rival().tokens_per_s
        return in_turn.Outcome(((1000.0, 1500.0 if faster == "openvino" else 900.0),) * in_turn.ROUNDS)

    monkeypatch.setattr(build, "measure_in_turn", measured)
    monkeypatch.setattr(pipeline, "candidates", lambda *_: [Candidate("native", "int8"), Candidate("openvino", "fp32")])
    settings = Settings(model=str(bert), state_dir=tmp_path, **OPEN_GATE)
    found = [pipeline.prepare(settings, lambda _: None, compare=True) for _ in range(2)]
    assert [(each.engine, each.precision) for each in found] == [(faster, "int8" if faster == "native" else "fp32")] * 2
    assert "compared: openvino fp32" in found[0].chosen_because
    directory = artifact_dir(settings)
    assert read_verdict(directory).settled, "there is nothing left to compare while it serves"
    assert read_manifest(directory) == found[1]
    assert load_engine(settings).info.engine == faster


def test_what_was_built_is_kept_where_the_others_cannot_be_compared(bert, tmp_path, monkeypatch):
    def measured(*_):
        raise in_turn.BusyError("other programs leave no quiet moment")

    monkeypatch.setattr(build, "measure_in_turn", measured)
    monkeypatch.setattr(pipeline, "candidates", lambda *_: [Candidate("native", "int8"), Candidate("openvino", "fp32")])
    found = pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path, **OPEN_GATE), lambda _: None, compare=True)
    assert found.engine == "native"
    assert "openvino fp32 was not compared: other programs leave no quiet moment" in found.chosen_because
