"""Sockets, links and `.colors` removed or damaged while a stack runs: it makes them again, or ends and says why."""

import contextlib
import json
import os
import signal

import psutil
import pytest
import requests
from release_stack import ReleaseStack
from running import PATIENCE_S, wait_for

from webapp.stack.repair import BAD, SPARE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """One for all: the last trial ends it."""
    with ReleaseStack(tmp_path_factory.mktemp("removed") / "own", engine="stub", request_timeout_s="20") as running:
        yield running


def repair_lines(stack):
    return [line for line in (stack.state_dir / "serve.out").read_text().splitlines() if "made again" in line]


def whole(stack):
    """Whether all is reached: the webapp, the pusher, the exporter, supervisord."""
    try:
        return all(
            (
                stack.rerank().status_code == 200,
                requests.get(f"{stack.url}/progress", timeout=PATIENCE_S).ok,
                "rerank_active_requests" in requests.get(f"{stack.url}/metrics", timeout=PATIENCE_S).text,
                "RUNNING" in stack.supervisorctl("status", "nginx"),
            )
        )
    except requests.RequestException:
        return False


@contextlib.contextmanager
def serve_stopped(stack):
    """Nobody looks after anything."""
    stack.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.process.send_signal(signal.SIGCONT)


def is_cut_off(stack):
    """Wait until nginx keeps no connection to the webapp; then it finds none."""
    (worker,) = stack.workers()
    door = f"webapp-{stack.colors()['active']}.sock"

    def kept():
        connections = psutil.Process(worker).net_connections("unix")
        return sum(str(each.laddr).endswith(door) for each in connections) - 1  # one of them listens

    wait_for(lambda: not kept(), "nginx lets go of the connections that it kept")
    assert stack.rerank().status_code == 503


def doctor_on_sockets(stack):
    return {each["about"]: each for each in json.loads(stack.reranking("doctor", "--json")[1])}["sockets"]


def sockets(stack):
    return sorted((stack.state_dir / "run").glob("*.sock"))


def test_each_removed_socket_and_link_is_made_again_without_a_restart(stack):
    wait_for(lambda: whole(stack), "all programs have come up")
    pids, there = [*stack.workers(), stack.pid_of("pusher"), stack.pid_of("metrics")], sockets(stack)
    idle = stack.state_dir / "run" / f"webapp-{stack.colors()['idle']}.sock"
    kept = stack.state_dir / "run" / SPARE
    bound = {path.stem for path in there if not path.is_symlink() and path != idle}
    wait_for(
        lambda: bound <= {path.name for path in kept.iterdir()}, "serve has seen all of them, as it does every second"
    )
    each_alone = [
        [path] for path in there if not path.is_symlink() and path != idle
    ]  # nobody listens at the idle one's
    for removed in (*each_alone, there):
        lines = len(repair_lines(stack))
        for path in removed:
            path.unlink()
        wait_for(lambda lines=lines: len(repair_lines(stack)) > lines, f"{removed} are made again")
        assert whole(stack)
        (line,) = repair_lines(stack)[lines:]
        assert all(path.name in line for path in removed if path != idle)
    assert [*stack.workers(), stack.pid_of("pusher"), stack.pid_of("metrics")] == pids


def test_while_a_link_or_socket_is_gone_status_and_doctor_say_so_and_a_restart_binds_it_anew(stack):
    serving = stack.state_dir / "run" / f"webapp-{stack.colors()['active']}.sock"
    lines = len(repair_lines(stack))
    with serve_stopped(stack):
        for path in sockets(stack):
            if path.is_symlink():
                path.unlink()
        is_cut_off(stack)
        code, said = stack.reranking("status", "--json")
        seen = json.loads(said)
        assert (code, seen["health"]) == (4, "down")
        assert "share-0.sock is gone" in seen["troubles"]
        found = doctor_on_sockets(stack)
        assert found["verdict"] == "bad"
        assert "fallback.sock" in found["seen"]
    wait_for(lambda: len(repair_lines(stack)) > lines and whole(stack), "serve has made them all again")
    with serve_stopped(stack):
        serving.unlink()
        is_cut_off(stack)
        code, said = stack.reranking("restart")
        assert code == 0, said
        assert "runs again" in said
        assert stack.rerank().status_code == 200
    assert doctor_on_sockets(stack)["verdict"] == "good"


@pytest.mark.parametrize("content", [b"garbage", None])
def test_with_the_colors_unreadable_a_master_that_died_is_back_and_they_are_written_again(stack, content):
    file, before, master = stack.state_dir / ".colors", stack.colors(), stack.pid_of("webapp")
    lines = len(repair_lines(stack))
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)
    os.kill(master, signal.SIGKILL)
    wait_for(lambda: len(repair_lines(stack)) > lines, "the file is there again")
    wait_for(lambda: stack.pid_of("webapp") not in {None, master} and whole(stack), "a new master serves")
    assert stack.colors() == before
    assert repair_lines(stack)[lines:] == ["Removed or damaged, and made again: .colors"]
    assert (stack.state_dir / BAD).is_dir() == (content is None)


def test_with_the_colors_unreadable_a_program_that_was_stopped_can_be_restarted(stack):
    program = stack.program("webapp")
    stack.supervisorctl("stop", program)
    (stack.state_dir / ".colors").write_bytes(b"garbage")
    wait_for((stack.state_dir / BAD).is_file, "the garbage was put aside")
    code, said = stack.reranking("restart")
    assert code == 0, said
    assert stack.rerank().status_code == 200


def test_with_the_colors_unreadable_for_good_what_serves_is_needed_and_serve_ends(stack):
    program, master = stack.program("webapp"), stack.pid_of("webapp")
    family = stack.family()
    with serve_stopped(stack):
        (stack.state_dir / ".colors").write_bytes(b"garbage")
        os.kill(master, signal.SIGKILL)
        given_up = stack.state_dir / "run" / "given-up"
        wait_for(given_up.exists, "supervisord gives it up")
    assert stack.process.wait(PATIENCE_S) == 1
    assert f"{program} was given up" in (stack.state_dir / "serve.out").read_text()
    assert not any(each.is_running() for each in family)
