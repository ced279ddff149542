"""Which way a deploy and a rollback go, and what they write down of the artifact that serves."""

import contextlib

import pytest

from webapp.stack.releases import deploy, recovery, state
from webapp.stack.releases.state import Release
from webapp.stack.releases.tasks import DeployOptions, DeployTasks, InPlaceReload


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model's directory, which the environment names."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "weights").write_bytes(b"as they were")
    monkeypatch.setenv("RERANK_MODEL", str(directory))
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(DeployTasks, "room", lambda _: "there is room")
    return directory


@pytest.fixture
def colors(model, monkeypatch):
    """What a stack began with that serves this model."""
    del model
    first = state.begin("blue").with_release("blue", recovery.with_artifact(Release(number=1)))
    now = [first]

    @contextlib.contextmanager
    def deploy_lock(_say):
        yield now[-1]

    monkeypatch.setattr(deploy, "_deploy_lock", deploy_lock)
    return now


def said_of(values):
    said = []
    deploy.deploy(DeployOptions(values, dry_run=True), said.append)
    return "\n".join(said)


@pytest.mark.usefixtures("colors")
def test_a_reloadable_setting_goes_by_hup_unless_the_model_was_retrained_in_place(model):
    assert "by HUP, the color stays" in said_of({"RERANK_WORKERS": "2"})
    (model / "weights").write_bytes(b"retrained")
    said = said_of({"RERANK_WORKERS": "2"})
    assert "by a new color, blue -> green" in said
    assert "would prepare, room, start" in said


def test_a_rollback_by_hup_names_the_artifact_that_goes_on_serving(colors, monkeypatch):
    """The stack was started anew between the change and the rollback, with a model that was retrained in place."""
    before = Release(number=1, artifact="as-it-was", model="as it was")
    serving = Release(number=2, settings={"RERANK_WORKERS": "2"}, artifact="retrained", model="it")
    colors.append(state.Colors(active="blue", idle="green", serves={"blue": serving}, before=before))
    planned = []
    monkeypatch.setattr(deploy, "_carry_out", lambda tasks, *_: planned.append(tasks))
    deploy.rollback(lambda _: None, ready_timeout_s=0)
    (tasks,) = planned
    assert isinstance(tasks, InPlaceReload)
    assert (tasks.release.number, tasks.release.artifact, tasks.release.model) == (1, "retrained", "it")
