"""Starting, stopping, and what is said when it can't be."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from running import PATIENCE_S, Stack, free_port, wait_for

import webapp
from webapp.domain.errors import SetupError
from webapp.engine.artifact import MODEL
from webapp.engine.runtimes.native import library
from webapp.stack.preflight import find_nginx


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(own_stack, number):
    own_stack.start()
    assert own_stack.rerank().status_code == 200
    assert own_stack.stop(number) == 0
    assert sorted(path.name for path in (own_stack.state_dir / "run").glob("*.sock")) == []


def test_a_signal_during_the_start_stops_it_cleanly(own_stack):
    own_stack.begin()
    wait_for((own_stack.state_dir / "log" / "supervisord.log").exists, "supervisord begins")
    assert own_stack.stop() == 0


@pytest.mark.slow
def test_a_signal_while_the_model_is_prepared_ends_that_too(bert, tmp_path):
    stack = Stack(tmp_path, model=str(bert))
    stack.begin()
    wait_for(stack.family, "it prepares")
    assert stack.stop() == 0


def test_it_starts_again_in_the_same_place_after_being_killed(own_stack):
    own_stack.start().kill()
    with own_stack:
        assert own_stack.rerank().status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(library() is None, reason="the native engine is not built here")
def test_the_native_engine_serves_after_the_fork_with_its_weights_mapped(bert, tmp_path):
    gate = {
        "gate_max_score_error": "1",
        "gate_mean_score_error": "1",
        "gate_min_tau": "-1",
    }  # a random model is no judge
    with Stack(tmp_path, model=str(bert), engine="native", precision="auto", **gate) as stack:
        assert requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["engine"] == "native"
        assert stack.rerank([f"document {number}" for number in range(300)]).status_code == 200
        assert "/model.safetensors" in Path(f"/proc/{stack.workers()[0]}/maps").read_text()


def test_the_ready_line_names_url_and_model(stack):
    assert f"Ready: {stack.url} serves bert (openvino " in stack.said


def refusal(stack):
    """The one line with which a stack refuses to start."""
    stack.begin()
    try:
        assert stack.process.wait(PATIENCE_S) == 1
    except subprocess.TimeoutExpired:
        stack.kill()
        raise
    (line,) = (stack.state_dir / "serve.out").read_text().splitlines()
    return line


def test_a_taken_port_is_one_line_with_the_remedy(own_stack):
    with socket.socket() as other:
        other.bind(("127.0.0.1", own_stack.port))
        other.listen()
        assert "Address already in use); set RERANK_HOST or RERANK_PORT" in refusal(own_stack)


def test_a_second_service_in_the_same_state_directory_is_refused(stack):
    second = Stack(stack.state_dir, model="x")
    second._environment["RERANK_PORT"] = str(free_port())
    outcome = subprocess.run(
        [sys.executable, "-m", "webapp", "serve"], env=second._environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 1
    assert "another service runs in" in outcome.stderr


def test_no_nginx_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr("webapp.stack.preflight.shutil.which", lambda *_args, **_options: None)
    with pytest.raises(SetupError, match="apt-get install nginx"):
        find_nginx()


def test_a_wrong_setting_is_one_line_that_names_it(tmp_path):
    assert "RERANK_PRECISION" in refusal(Stack(tmp_path, precision="fp64"))


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    assert "there is no directory /nowhere" in refusal(Stack(tmp_path, model="/nowhere"))


def test_a_damaged_model_file_is_one_line_with_the_remedy(own_stack):
    (file,) = own_stack.state_dir.glob("models/*/tokenizer.json")
    file.write_text(file.read_text() + " ")
    assert f"{file} does not match its manifest; remove" in refusal(own_stack)


@pytest.mark.slow
def test_a_program_that_does_not_start_is_named_with_its_log(own_stack):
    """The artifact is whole, by its manifest, but OpenVINO can't read it."""
    (directory,) = (path for path in (own_stack.state_dir / "models").iterdir() if path.is_dir())
    (directory / MODEL).write_text("no model")
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["files"][MODEL]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert "webapp-blue does not start; see" in refusal(own_stack)
    log = (own_stack.state_dir / "log" / "webapp-blue.log").read_text()
    assert MODEL in log


def test_a_bad_python_is_one_line_with_the_remedy(tmp_path):
    """The scripts, in a copy of the tree, with a Python that is too old."""
    root, tree = Path(__file__).resolve().parents[2], tmp_path / "tree"
    shutil.copytree(root / "scripts", tree / "scripts")
    shutil.copytree(root / "webapp" / "engine" / "native", tree / "webapp" / "engine" / "native")
    (tree / "client").mkdir()
    for name in ("pyproject.toml", "client/pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(root / name, tree / name)
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": str(old)}
    outcome = subprocess.run(
        [str(tree / "scripts" / "serve")], env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines() == [outcome.stderr.strip()]
    assert "Python 3.11 or newer is needed" in outcome.stderr


@contextlib.contextmanager
def running_alone(tmp_path, *arguments, **variables):
    """`python -m webapp ...`, without nginx and supervisor."""
    port = free_port()
    environment = {**os.environ, "RERANK_PORT": str(port), **variables}
    with (tmp_path / "out").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "webapp", *arguments], env=environment, stdout=output, stderr=output
        )

    def ready():
        try:
            return requests.get(f"http://127.0.0.1:{port}/ready", timeout=PATIENCE_S).status_code == 200
        except requests.ConnectionError:
            return False

    try:
        wait_for(ready, "it is ready")
        yield ready
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_the_api_runs_from_inside_the_program_without_a_gunicorn_command(bert_settings, tmp_path):
    asked = {
        "RERANK_STATE_DIR": str(bert_settings.state_dir),
        "RERANK_MODEL": bert_settings.model,
        "RERANK_ENGINE": bert_settings.engine,
        "RERANK_PRECISION": bert_settings.precision,
    }
    with running_alone(tmp_path, **asked):
        pass


def test_development_mode_restarts_when_a_source_file_changes(tmp_path):
    source = Path(webapp.__file__)
    with running_alone(tmp_path, "run", "--reload", RERANK_ENGINE="stub", RERANK_STATE_DIR=str(tmp_path)) as ready:
        source.touch()
        wait_for(lambda: (tmp_path / "out").read_text().count("Booting worker") == 2, "a new worker")
        wait_for(ready, "it is ready again")
