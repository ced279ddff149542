from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import hypothesis
import pytest
import small_models
from scheduling_kit import Rig

from webapp.config.settings import Settings
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.stub import StubEngine

# Other tests share the cores: an example that takes long is no finding. The same examples each time: what fails in a
# change is the change. Now and then, for new ones: scripts/test tests/unit --hypothesis-profile=search
_WHEREVER = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow], "print_blob": True}
hypothesis.settings.register_profile("search", **_WHEREVER)
hypothesis.settings.register_profile("same", derandomize=True, **_WHEREVER)
hypothesis.settings.load_profile("same")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure():
    """Let tests ask this machine without a proxy, and programs that they start hear Ctrl-C.

    A process that a shell starts in the background ignores Ctrl-C, and so would every program that a test starts.
    """
    os.environ["no_proxy"] = ",".join(filter(None, ("127.0.0.1,localhost,::1", os.environ.get("no_proxy"))))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Side by side, slow files begin first: one that began last would be waited for alone."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    """A developer's own RERANK_* variables and reranking.yaml must not change what tests see."""
    for name in list(os.environ):
        if name.startswith("RERANK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RERANK_CONFIG", "")


@pytest.fixture(scope="session", autouse=True)
def _short_measurements():
    """Most tests don't care how fast an engine is."""
    from webapp.engine.prepare import autotune

    autotune.MEASURED_S = 0.01


@pytest.fixture(scope="session")
def shared_data():
    """The shared test collection and the checkpoint trained on it; they are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A small BERT cross-encoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small_models.build_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def xlm_roberta(tmp_path_factory):
    """A small XLM-RoBERTa cross-encoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return small_models.build_xlm_roberta(tmp_path_factory.mktemp("models") / "xlmr")


@pytest.fixture(scope="session")
def bert_settings(bert, tmp_path_factory):
    """Settings whose artifact, of the small BERT, is prepared."""
    settings = Settings(
        model=str(bert),
        state_dir=tmp_path_factory.mktemp("state"),
        engine="openvino",
        precision="fp32",
        engine_threads=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(settings, lambda _: None)
    return settings


@pytest.fixture
def stub_rig():
    """A scheduler with two engine threads on the stub engine."""
    with Rig(StubEngine()) as rig:
        yield rig
