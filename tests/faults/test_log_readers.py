"""All lines go to stdout, and its reader stops; supervisord, which passes them on, is stopped, or told to start anew.

One stack for all of it. These tests are in order.
"""

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from load_kit import ClosedLoop
from running import PATIENCE_S, Stack, wait_for

from contracts.logging.line import FIRST

pytestmark = pytest.mark.slow

FEW = 400
"""Requests whose lines are more than stdout holds, a pipe of 64 KB."""

MANY = 1800
"""Requests whose lines are more than the pipe of any program of ours holds, of 1 MB."""

LONG = {"id": "x" * 128, "path": "/" + "x" * 1000}
"""What makes a request's line in a log long."""


class Reader:
    """The reader of stdout reads nothing at first, for stdout is full from the start, then all, then nothing again."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with path.open("wb", buffering=0) as full:
            os.set_blocking(full.fileno(), False)
            while full.write(b"\n" * 4096):
                pass
        os.set_blocking(self._end, True)
        self.text = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self):
        while not self._stop.is_set():
            self.text += os.read(self._end, 1 << 16)

    def begin(self):
        self._thread.start()

    def stop(self):
        self._stop.set()

    def close(self):
        """When nobody writes any more."""
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
        os.close(self._end)

    def lines(self):
        return [json.loads(line) for line in self.text[: self.text.rfind(b"\n") + 1].splitlines() if line]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("reader") / "stdout")
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def stack(reader, tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    stack = Stack(directory / "own", engine="stub", log_to="stdout")
    stack.begin(output=reader.path)
    yield stack
    if stack.process.poll() is None:
        stack.kill()


def all_are_answered(stack, times):
    """Ask much at once, and something of each program."""
    local = threading.local()

    def ask(_):
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.headers["X-Request-Id"] = LONG["id"]
        return local.session.get(f"{stack.url}{LONG['path']}", timeout=PATIENCE_S).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(times))) == {404}
    assert requests.get(f"{stack.url}/ready", timeout=PATIENCE_S).status_code == 200
    assert requests.get(f"{stack.url}/progress", timeout=PATIENCE_S).status_code == 200
    assert stack.rerank(headers={"X-Request-Id": "find-me"}).status_code == 200


def supervisord_of(stack):
    (found,) = [
        each
        for each in psutil.Process(stack.process.pid).children()
        if "webapp.stack.supervisor.logging" in each.cmdline()
    ]
    return found


def access_lines(lines, service):
    return sum(line["service"] == service and line["message"] == "request" for line in lines)


def counted(lines, service):
    """Lines of a program that it counts as dropped."""
    found = (re.match(r"(\d+) lines? w\w+ dropped", line["message"]) for line in lines if line["service"] == service)
    return sum(int(match[1]) for match in found if match)


def test_a_reader_that_reads_nothing_delays_no_start_no_request_and_no_supervisorctl(stack):
    wait_for(lambda: is_ready(stack), "it starts")
    all_are_answered(stack, FEW)
    for program in ("webapp", "nginx", "pusher", "metrics"):
        wait_for(lambda name=program: "RUNNING" in stack.supervisorctl("status", name), f"{program} runs")
    assert "started" in stack.supervisorctl("restart", "pusher")


def test_once_it_is_read_standard_output_has_the_lines_of_all_programs_and_no_file_has_any(stack, reader):
    reader.begin()
    wait_for(lambda: access_lines(reader.lines(), "webapp") > FEW, "they flow")
    lines = wait_for(lambda: has_find_me(reader.lines()), "nginx' too")
    assert {line["service"] for line in lines} == {"serve", "supervisord", "webapp", "pusher", "nginx"}
    assert all(list(line)[: len(FIRST)] == list(FIRST) for line in lines)
    assert any(line["message"].startswith("Ready: ") for line in lines)
    assert list((stack.state_dir / "log").iterdir()) == []


def test_while_supervisord_is_stopped_requests_are_answered_and_a_later_line_counts_the_missing_ones(stack, reader):
    before = access_lines(reader.lines(), "webapp")
    supervisord = supervisord_of(stack)
    supervisord.suspend()
    try:
        all_are_answered(stack, MANY)
    finally:
        supervisord.resume()

    def lines_with_a_count():
        stack.rerank()  # the program counts in its next line
        lines = reader.lines()
        return lines if counted(lines, "webapp") else None

    lines = wait_for(lines_with_a_count, "the missing lines are counted")
    assert access_lines(lines, "webapp") - before + counted(lines, "webapp") >= MANY
    assert "nginx wrote faster than its lines were read: some may be lost" in {line["message"] for line in lines}


def test_hup_of_supervisord_reads_keys_again_and_loses_nothing(stack):
    supervisord, workers = supervisord_of(stack), stack.workers()
    programs = [stack.pid_of(program) for program in ("webapp", "nginx", "pusher")]
    with ClosedLoop(stack, 4) as clients:
        supervisord.send_signal(signal.SIGHUP)
        wait_for(lambda: stack.workers() and not set(workers) & set(stack.workers()), "new workers, with new keys")
        clients.more(each=10)
    assert clients.outcomes.keys() == {"good"}
    assert [stack.pid_of(program) for program in ("webapp", "nginx", "pusher")] == programs


def test_the_stack_ends_in_order_while_the_reader_reads_nothing(stack, reader):
    reader.stop()
    all_are_answered(stack, FEW)
    assert stack.stop() == 0


def is_ready(stack):
    try:
        return all(requests.get(stack.url + path, timeout=PATIENCE_S).ok for path in ("/ready", "/progress"))
    except requests.ConnectionError:
        return False


def has_find_me(lines):
    return {line["service"] for line in lines if line["request_id"] == "find-me"} >= {"webapp", "nginx"} and lines
