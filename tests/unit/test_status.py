"""What `status` calls healthy, and what it finds where no stack runs."""

import json
import os

import pytest

from webapp.config.settings import Settings
from webapp.stack import status
from webapp.stack.releases import state
from webapp.stack.supervisor.client import Program, Programs


@pytest.fixture
def settings(tmp_path):
    made = Settings(state_dir=tmp_path, engine="stub", port=1)
    made.run_dir.mkdir()
    return made


def test_where_no_stack_runs_it_is_down_and_says_why(settings):
    found = status.inspect(settings)
    assert (found.health, found.programs, found.workers) == ("down", [], [])
    assert found.ready.startswith("no answer")
    assert found.troubles == ["supervisor doesn't answer"]
    assert found.model["engine"] == "stub"


def test_it_is_impaired_by_an_idle_color_that_runs_a_lost_socket_and_a_worker_whose_breaker_is_open(
    settings, monkeypatch
):
    state.write(settings.state_dir, state.begin("blue"))
    programs = [Program("webapp-blue", "RUNNING", 7, 60), Program("webapp-green", "RUNNING", 8, 60)]
    monkeypatch.setattr(Programs, "all", lambda _: programs)
    monkeypatch.setattr(status, "_ready", lambda _: "ready")
    memory = {"workers": [{"pid": 9, "state": "ready", "breaker": "open"}], "points": []}
    path = settings.run_dir / "pusher.json"
    path.write_text(json.dumps(memory))
    found = status.inspect(settings)
    assert found.health == "impaired"
    assert [each.role for each in found.programs] == ["active", "idle"]
    for trouble in ("the breaker of worker 9 is open", "webapp-green is idle, yet it runs", "webapp-blue.sock is gone"):
        assert any(each.startswith(trouble) for each in found.troubles), trouble
    os.utime(path, (0, 0))
    assert status.inspect(settings).workers == [], "what is old no longer counts"
