import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from running import Stack

from webapp.engine.native_engine import library
from webapp.engine.prepare.pipeline import prepare

OPEN_GATE = {
    "gate_max_score_error": "1",
    "gate_mean_score_error": "1",
    "gate_min_tau": "-1",
    "gate_min_top10_overlap": "0",
}
"""A model with random weights is no judge of int8's fidelity."""

FAULTS = Path(__file__).resolve().parents[1] / "services" / "candidate"


class ReleaseStack(Stack):
    """A stack with a terminal beside it."""

    def __init__(self, state_dir, *, python_path=None, **options):
        super().__init__(state_dir, **options)
        self._more = {"PYTHONPATH": str(python_path)} if python_path else {}
        self._environment |= self._more

    def reranking(self, *arguments, **options):
        """Run a command against it, as an operator does; returns exit code and everything that it said."""
        done = subprocess.run(
            [sys.executable, "-m", "webapp", *arguments],
            env=self._terminal(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **options,
        )
        return done.returncode, done.stdout

    def begin_command(self, *arguments):
        """The same, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "webapp", *arguments],
            env=self._terminal(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _terminal(self):
        """Another one than the stack was started from: it knows the state directory and nothing else."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
        return {**mine, **self._more, "RERANK_STATE_DIR": str(self.state_dir)}


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
    """The same, whose green colour has the fault that the file `fault` in its state directory names."""
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
