"""What a deploy tells: lines, and the whole release to the dashboard at each step."""

import pytest

from contracts import events
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.releases import steps
from webapp.telemetry import publisher


@pytest.fixture
def published(monkeypatch):
    """Every event that a deploy gives to its publisher."""
    kept = []
    monkeypatch.setattr(publisher.Publisher, "publish", lambda _, event: kept.append(event))
    return kept


def reporter(tmp_path, said, draw=None):
    release = events.Release(number=2, color="green", what="a model", began=1.0)
    return steps.DeployReporter(Settings(state_dir=tmp_path, events=False), release, said.append, draw)


def test_every_event_has_all_steps_so_far_and_the_last_one_how_it_ended(tmp_path, published):
    def fails():
        raise SetupError("no room")

    said = []
    reports = reporter(tmp_path, said)
    listed = [steps.Step("prepare", lambda: "it is there", lambda: None), steps.Step("room", fails)]
    with pytest.raises(steps.RefusedError):
        steps.run(listed, reports.step)
    reports.end("refused")
    assert [[step.state for step in event.steps] for event in published[:5]] == [
        [],
        ["running"],
        ["done"],
        ["done", "running"],
        ["done", "failed"],
    ]
    assert (published[-1].state, published[-1].number) == ("refused", 2)
    assert [line.split()[:2] for line in said] == [["prepare", "done"], ["room", "FAILED"], ["prepare", "undone"]]


def test_a_number_that_changes_is_drawn_on_a_terminal_and_said_once_elsewhere(tmp_path, published):
    del published
    said, drawn = [], []
    for draw in (None, drawn.append):
        reports = reporter(tmp_path, said, draw)
        for left in (2, 1):
            reports.count(f"green finishes {left} requests")
    assert said == ["    green finishes 2 requests"]
    assert drawn == ["    green finishes 2 requests", "    green finishes 1 requests"]
