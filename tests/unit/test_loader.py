"""Which artifact a master opens: what its release names, though the model's directory was written to since."""

import os
from pathlib import Path

import msgspec
import pytest
from manifest_kit import manifest

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine import loader
from webapp.engine.artifact import FORMAT, MANIFEST, NAMED_VARIABLE, artifact_dir, read_served
from webapp.engine.recipes import named_recipe
from webapp.stack.releases import state
from webapp.stack.releases.environment import load_release
from webapp.stack.releases.state import Release


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return settings of a model in a directory; to open an engine returns the directory it would come from."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"as they were")
    monkeypatch.setattr(loader, "open_engine", lambda directory, _manifest: directory)
    return Settings(state_dir=tmp_path, model=str(model))


def prepare(settings, **different):
    """Make the artifact of the model as it is now; returns its name."""
    directory = artifact_dir(settings)
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest(**different)))
    return directory.name


def retrain(settings):
    (Path(settings.model) / "weights").write_bytes(b"retrained in place")


def test_a_master_that_died_comes_back_with_the_artifact_that_its_release_names(settings, caplog):
    named = prepare(settings)
    assert loader.load_engine(settings, named).name == named
    assert not caplog.records
    retrain(settings)
    assert loader.load_engine(settings, named).name == named
    assert "the model's files have changed" in caplog.text
    prepare(settings)
    assert loader.load_engine(settings, named).name == named, "the new one has not been through a gate"


@pytest.mark.parametrize("different", [{"engine": "torch"}, {"format": FORMAT - 1}])
def test_one_that_reads_the_model_s_own_files_or_is_of_other_code_is_not_taken(settings, different):
    named = prepare(settings, **different)
    retrain(settings)
    with pytest.raises(SetupError, match="is not prepared"):
        loader.load_engine(settings, named)


@pytest.mark.parametrize("named", ["", "gone"])
def test_without_the_named_one_the_settings_decide(settings, named):
    now = prepare(settings)
    assert loader.load_engine(settings, named).name == now
    retrain(settings)
    with pytest.raises(SetupError, match="is not prepared"):
        loader.load_engine(settings, named)


def test_an_instruction_for_a_model_that_takes_none_is_refused(settings):
    prepare(settings, recipe=named_recipe("bge-reranker-v2-gemma"))
    asked = settings.model_copy(update={"instruction": "find bees"})
    with pytest.raises(SetupError, match="RERANK_INSTRUCTION: a takes no instruction; leave it empty"):
        loader.load_engine(asked)


@pytest.mark.parametrize(
    ("recipe", "instruction", "default"),
    [
        ("qwen3-reranker", "", "Given a web search query, retrieve relevant passages that answer the query"),
        ("qwen3-reranker", "find bees", "find bees"),
        ("mxbai-rerank-v2", " ", ""),
        ("mxbai-rerank-v2", "find bees", "find bees"),
        ("bge-reranker-v2-gemma", "", None),
    ],
)
def test_the_default_instruction_is_that_of_the_settings_else_of_the_recipe(settings, recipe, instruction, default):
    prepare(settings, recipe=named_recipe(recipe))
    served = read_served(artifact_dir(settings), settings.model_copy(update={"instruction": instruction}))
    assert served.info().instruction == served.instruction == default


def test_a_release_s_artifact_is_named_to_the_master_that_takes_it_up(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("RERANK_COLOR", "blue")
    monkeypatch.setenv(NAMED_VARIABLE, "of nobody")
    state.write(tmp_path, state.begin("blue").with_release("blue", Release(number=2, artifact="its-own")))
    served = load_release()
    assert os.environ[NAMED_VARIABLE] == "its-own"
    state.write(tmp_path, state.begin("blue").with_release("blue", Release(number=3)))
    load_release(served)
    assert os.environ[NAMED_VARIABLE] == "", "the stub engine needs none"
