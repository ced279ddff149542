"""The state directory's disk is full, read-only or gone. Requests that need none of it are answered."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

BIG = ["bees find home by the sun " * 20 + str(number) for number in range(4000)]
"""Two megabytes: nginx keeps such a body in a file until it is whole."""


@pytest.fixture
def disk():
    """16 MB that can be filled and taken away; needs the right to mount. A short path, for the sockets' sake."""
    where = Path(tempfile.mkdtemp(prefix="disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        where.rmdir()
        pytest.skip("mounting is not allowed here")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)
    where.rmdir()


@pytest.fixture
def stack(disk):
    return Stack(disk / "own", engine="stub", request_timeout_s="20", cache_mb="0")


def fill(disk):
    with (disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass
    assert shutil.disk_usage(disk).free == 0


def troubles(stack):
    """What was said but for the start."""
    return [line for line in said(stack).splitlines() if not line.startswith(("Ready: ", "Dashboard: ", "Started in "))]


def small_ones_are_answered(stack):
    assert {stack.rerank().status_code for _ in range(50)} == {200}
    for path in ("/ready", "/dashboard/", "/progress"):
        assert requests.get(stack.url + path, timeout=PATIENCE_S).status_code == 200


def said(stack):
    return (stack.state_dir / "serve.out").read_text()


def log(stack, program):
    return (stack.state_dir / "log" / f"{program}.log").read_text()


def test_a_full_disk_costs_only_log_lines_and_large_bodies_and_is_logged_once(stack, disk):
    with stack:
        lines = len(stack.log_lines("webapp"))
        fill(disk)
        small_ones_are_answered(stack)
        refused = stack.rerank(BIG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "internal"), "nginx has no place for it"
        refused = stack.rerank(BIG[:1000], body={"return_documents": True})
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True), (
            "a worker has no place for its reply"
        )
        assert "No space left on device" in refused.json()["error"]["message"]
        (worker,) = stack.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: stack.workers() not in ([], [worker]), "a new worker needs no disk")
        small_ones_are_answered(stack)
        assert said(stack).count(".log can't be written ([Errno 28] No space left on device)") == 1
        assert len(troubles(stack)) == 1, "and nothing else"
        (disk / "filling").unlink()
        assert stack.rerank(BIG).status_code == 200
        wait_for(lambda: len(stack.log_lines("webapp")) > lines, "the log goes on")


def test_small_requests_are_answered_on_a_disk_that_became_read_only(stack, disk):
    with stack:
        subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
            small_ones_are_answered(stack)
            assert stack.rerank(BIG).status_code == 500
            wait_for(lambda: "Read-only file system" in log(stack, "nginx"), "nginx says why")
            wait_for(lambda: "what happened can't be kept: [Errno 30]" in log(stack, "pusher"), "and the pusher")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        assert stack.rerank(BIG).status_code == 200


def test_a_start_on_a_full_disk_is_one_line(stack, disk, tmp_path):
    stack.state_dir.mkdir()
    fill(disk)
    assert stack.begin(output=tmp_path / "serve.out").wait(PATIENCE_S) == 1
    (line,) = (tmp_path / "serve.out").read_text().splitlines()
    assert "RERANK_STATE_DIR: can't write to" in line
    assert "No space left on device" in line


def test_when_the_directory_is_removed_serve_says_so_ends_and_can_be_started_again(stack):
    with stack, requests.Session() as idle:
        assert idle.get(f"{stack.url}/ready", timeout=PATIENCE_S).status_code == 200  # it keeps its connection
        shutil.rmtree(stack.state_dir / "run")
        assert stack.process.wait(PATIENCE_S) == 1
        assert "run was removed; start again, which makes it anew" in said(stack)
        assert not stack.family()
    with stack:
        assert stack.rerank().status_code == 200
