import shutil
import warnings
from pathlib import Path

import pytest
from release_stack import ReleaseStack

from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.native import library

OPEN_GATE = {
    "gate_max_score_error": "1",
    "gate_mean_score_error": "1",
    "gate_min_tau": "-1",
    "gate_min_top10_overlap": "0",
}
"""A model with random weights is no judge of int8's fidelity."""

FAULTS = Path(__file__).resolve().parents[1] / "services" / "candidate"


@pytest.fixture(scope="session")
def two_models(bert_settings, xlm_roberta, tmp_path_factory):
    """A state directory with the artifacts of two models that score differently."""
    state_dir = tmp_path_factory.mktemp("two-models")
    shutil.copytree(bert_settings.state_dir / "models", state_dir / "models")
    settings = bert_settings.model_copy(update={"model": str(xlm_roberta), "state_dir": state_dir})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(settings, lambda _: None)
    return state_dir


@pytest.fixture(scope="session")
def other_model(xlm_roberta):
    """The one that the stack does not begin with."""
    return str(xlm_roberta)


@pytest.fixture
def stub_stack(tmp_path):
    """A stack without a model: quick to start, quick to deploy to."""
    with ReleaseStack(tmp_path / "own", engine="stub", cache_mb="0", request_timeout_s="20") as running:
        yield running


@pytest.fixture
def faulty_stack(tmp_path):
    """The same, whose green color has the fault that the file `fault` in its state directory names."""
    with ReleaseStack(
        tmp_path / "own", python_path=FAULTS, engine="stub", cache_mb="0", request_timeout_s="20"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def model_stack(bert_settings, two_models, tmp_path_factory):
    """A stack with the small BERT."""
    with ReleaseStack(
        tmp_path_factory.mktemp("releases"),
        artifacts_from=two_models,
        model=bert_settings.model,
        cache_mb="0",
        engine_threads="1",
        request_timeout_s="20",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def auto_stack(bert, tmp_path_factory):
    """A stack that chooses its engine by itself, on its first start."""
    if library() is None:
        pytest.skip("the native engine is not built here")
    stack = ReleaseStack(tmp_path_factory.mktemp("first"), model=str(bert), request_timeout_s="20", **OPEN_GATE)
    for name in ("RERANK_ENGINE", "RERANK_PRECISION"):
        del stack._environment[name]
    with stack:
        yield stack
