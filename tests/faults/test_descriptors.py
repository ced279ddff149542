"""A worker without file descriptors."""

import contextlib
import resource
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
from running import Stack, wait_for

FAULTY = str(Path(__file__).parents[1] / "services" / "faulty")

LEFT = 6
"""Fewer than the connections that nginx keeps open."""


def shortage_lines(stack):
    return [line for line in stack.log_lines("webapp") if "all file descriptors are in use" in line["message"]]


@pytest.mark.slow
def test_with_no_descriptor_left_connections_wait_their_turn_a_line_says_so_and_it_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FAULTY)
    with Stack(tmp_path / "own", engine="stub", request_timeout_s="30", cache_mb="0") as stack:
        (worker,) = stack.workers()
        go_on, outcomes = tmp_path / "go-on", Counter()

        def ask():
            outcomes[stack.rerank(body={"query": f"until {go_on}"}).status_code] += 1

        clients = [threading.Thread(target=ask) for _ in range(1 + 5 * LEFT)]
        clients[0].start()
        wait_for(go_on.with_suffix(".began").exists, "it is scored, and all the others wait for it")
        before = psutil.Process(worker).num_fds()
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (before + LEFT, hard))
        for client in clients[1:]:
            client.start()
        wait_for(lambda: shortage_lines(stack), "none is left")
        go_on.touch()
        for client in clients:
            client.join()
        assert outcomes == {200: len(clients)}, "nginx' idle connections gave way to those that waited"
        assert len(shortage_lines(stack)) == 1
        with contextlib.suppress(ProcessLookupError):  # a library that aborts for want of one is its own affair
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
        assert stack.rerank().status_code == 200
        wait_for(lambda: sum(psutil.Process(each).num_fds() for each in stack.workers()) <= before + LEFT, "let go")
