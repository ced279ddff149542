"""kill -9 of the deploy at its steps, of nginx and of the new color: clients are served, and the next deploy heals."""

import os
import shutil
import signal

import psutil
import pytest
import requests
from load_kit import OpenLoop
from release_stack import ReleaseStack
from running import PATIENCE_S, wait_for

pytestmark = pytest.mark.slow


def kill_after(deploying, words):
    """Kill it when it has said that."""
    said = ""
    for line in deploying.stdout:
        said += line
        if words in line:
            break
    else:
        raise AssertionError(f"it never said {words!r}: {said}")
    deploying.kill()
    deploying.wait()
    deploying.stdout.close()


def is_whole(stack):
    """One color runs, and nothing else is left of any deploy."""
    status = stack.supervisorctl("status")
    return (
        sum("RUNNING" in line or "STARTING" in line for line in status.splitlines() if "webapp-" in line) == 1
        and not stack.colors()["attempt"]
        and not list((stack.state_dir / "run").glob("*.new"))
        and not (stack.state_dir / "run" / "comparing").exists()
        and not [
            each for each in psutil.process_iter(["cmdline"]) if str(stack.state_dir) in (each.info["cmdline"] or [])
        ]
    )


STEPS = ("drain", "prepare", "room", "start", "ready", "gate", "canary", "switch", "watch")
"""A deploy may end before it is killed after `drain`, its last step; each of the others leaves something to undo."""


def test_a_killed_deploy_costs_no_request_and_the_next_one_heals(stub_stack):
    stack = stub_stack
    with OpenLoop(stack.port) as load:
        for step in STEPS:  # each is said when it is done, so the next one has begun
            kill_after(
                stack.begin_command("deploy", "--again", "--watch", "1", "--canary", "50", "--for", "1"), f"{step} "
            )
        code, said = stack.reranking("deploy", "--again", "--watch", "0")
        assert code == 0, said
        assert "was killed; it is undone first" in said
        assert is_whole(stack)
    assert set(load.outcomes) == {200}, load.outcomes
    assert sum(load.outcomes.values()) > 100


def test_a_killed_change_by_hup_costs_no_request_and_the_next_one_heals(stub_stack):
    stack = stub_stack
    with OpenLoop(stack.port) as load:
        for step, documents in (("room", "900"), ("reload", "800")):
            kill_after(stack.begin_command("deploy", "--set", f"MAX_DOCUMENTS={documents}"), f"{step} ")
        code, said = stack.reranking("deploy", "--set", "MAX_DOCUMENTS=700")
        assert code == 0, said
        assert is_whole(stack)
        assert requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["limits"]["max_documents"] == 700
    assert set(load.outcomes) == {200}, load.outcomes


def test_a_stack_that_was_stopped_in_a_deploy_starts_whole(stub_stack):
    stack = stub_stack
    kill_after(stack.begin_command("deploy", "--again", "--watch", "30"), "gate ")
    assert stack.stop() == 0
    with stack:
        assert is_whole(stack)
        assert stack.rerank().headers["X-Deployment-Color"] == stack.colors()["active"]


def test_nginx_and_the_new_color_killed_at_the_switch_cost_no_request_of_the_color(stub_stack):
    stack = stub_stack
    deploying = stack.begin_command("deploy", "--again", "--watch", "30")
    with OpenLoop(stack.port) as load:
        wait_for(lambda: stack.colors()["active"] == "green", "the switch")
        os.killpg(stack.pid_of("webapp-green"), signal.SIGKILL)
        said = deploying.communicate(timeout=PATIENCE_S)[0]
        assert deploying.returncode == 1, said
        assert "refused at watch: green" in said  # died, or is no longer ready: whichever was looked at first
        assert is_whole(stack)
    assert set(load.outcomes) == {200}, load.outcomes
    deploying = stack.begin_command("deploy", "--again", "--watch", "2")
    wait_for(lambda: "switch" in (deploying.stdout.readline()), "the switch")
    os.kill(stack.pid_of("nginx"), signal.SIGKILL)
    said = deploying.communicate(timeout=PATIENCE_S)[0]
    assert deploying.returncode == 0, said
    assert wait_for(lambda: _answers(stack), "nginx is back") == 200
    assert is_whole(stack)


def _answers(stack):
    try:
        return stack.rerank().status_code
    except requests.ConnectionError:
        return None


def test_a_master_that_dies_after_its_model_was_retrained_in_place_comes_back_with_what_it_served(bert, tmp_path):
    model = shutil.copytree(bert, tmp_path / "model")
    with ReleaseStack(tmp_path / "own", model=str(model), cache_mb="0", request_timeout_s="20") as stack:
        before, master, serves = stack.rerank().json(), stack.pid_of("webapp"), stack.colors()["serves"]
        (model / "README.md").write_text("retrained in place")
        code, said = stack.reranking("deploy", "--set", "WORKERS=2", "--dry-run")
        assert code == 0, said
        assert "by a new color" in said
        os.kill(master, signal.SIGKILL)
        wait_for(lambda: stack.pid_of("webapp") not in {None, master}, "a new master")
        after = stack.rerank()
        assert after.status_code == 200, after.text
        assert after.json()["results"] == before["results"]
        assert stack.colors()["serves"] == serves
        assert stack.logged("webapp", lambda line: "the model's files have changed" in line["message"])
