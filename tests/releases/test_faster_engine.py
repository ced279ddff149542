"""A stack chooses an engine by itself, serves, compares, and changes to a faster one while clients go on."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest
from load_kit import OpenLoop
from running import PATIENCE_S, wait_for

from webapp.config.settings import Settings
from webapp.engine.runtimes import candidates

pytestmark = pytest.mark.slow


@pytest.fixture
def rival():
    """OpenVINO at a precision, which depends on the processor."""
    native, *others = map(str, candidates(Settings(), lambda _: None))
    if native != "native int8":
        pytest.skip("the native engine is not built here")
    return others[0]


COMPARE = """
from webapp.engine.prepare import in_turn
from webapp.stack.releases import comparison

class AlwaysIdle:
    def __init__(self, _ask): pass
    def wait(self): pass
    def lasted(self): return True

def measured(serving, rival, idle):
    assert serving().tokens_per_s and rival().tokens_per_s
    return in_turn.Outcome(((1000.0, 1500.0),) * in_turn.ROUNDS)

comparison.IdleDetector = AlwaysIdle
comparison.measure_in_turn = measured
comparison.main()
"""
"""The comparison itself, on a service that is busy and with an outcome that is certain; all else is as it is."""


def info(stack):
    with urllib.request.urlopen(f"{stack.url}/info", timeout=PATIENCE_S) as reply:
        return json.load(reply)


def run(stack, *arguments):
    """A program with the stack's own environment."""
    return subprocess.run(
        [sys.executable, *arguments], env=stack._environment, capture_output=True, text=True, check=False
    )


def test_the_first_engine_serves_and_a_faster_one_takes_over_by_a_release_that_costs_no_request(auto_stack, rival):
    stack = auto_stack
    assert "[5/6] comparing native int8 scores" in stack.said
    assert not re.search(r"\[\d/6\] .*openvino", stack.said), "one engine is enough to serve"
    first = info(stack)
    assert first["engine"] == "native"
    assert "compared" in first["engine_comparison"]
    wait_for(lambda: stack.pid_of("compare"), "the comparison waits for an idle service")
    assert json.loads(stack.reranking("status", "--json")[1])["troubles"] == []

    with OpenLoop(stack.port) as load:
        done = run(stack, "-c", COMPARE)
    assert done.returncode == 0, done.stderr
    assert f"compared: {rival} 1.50 times native int8" in done.stderr
    assert set(load.outcomes) == {200}, load.outcomes
    assert set(load.colors) == {"blue", "green"}

    then = info(stack)
    assert (then["engine"], then["precision"], then["deployment"]["release"]) == (*rival.split(), 2)
    assert "1.50 times native int8" in then["chosen_because"]
    assert then["engine_comparison"].endswith("; it became release 2")
    assert stack.pid_of("compare") is None, "there is nothing to compare any more"
    assert "by the engine that is faster here" in stack.reranking("deploy", "--history")[1]
    assert "1.50 times" in run(stack, "-m", "webapp", "status").stdout


def test_the_choice_stays_over_a_restart_and_a_rollback_is_not_undone(auto_stack):
    stack = auto_stack
    if info(stack)["engine"] != "openvino":
        pytest.skip("needs the test before")
    stack.stop()
    stack.start()
    assert info(stack)["engine"] == "openvino"
    assert stack.pid_of("compare") is None
    code, said = stack.reranking("rollback")
    assert code == 0, said
    assert info(stack)["engine"] == "native"
    assert stack.pid_of("compare") is None
