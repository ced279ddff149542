"""Log files that rotate many times a second under the load of four workers."""

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

from contracts.logging.line import FIRST, MOST_BYTES
from contracts.logging.writer import TOGETHER_S
from webapp.stack import log_files
from webapp.stack.supervisor.logging import ROTATION

pytestmark = pytest.mark.slow

LIMIT_BYTES = 20 * 1024

ROTATIONS = 10
"""Of each program's file, at least, while the load lasts."""

CALLERS = 8

PROGRAMS = ("nginx", "webapp", "pusher")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ROTATION, f"{LIMIT_BYTES},1000")
        stack = Stack(tmp_path_factory.mktemp("logs") / "own", engine="stub", workers="4", max_ongoing_requests="64")
        with stack:
            wait_for(lambda: len(stack.workers()) == 4, "four workers")
            yield stack


@pytest.fixture(scope="module")
def asked(stack):
    """Request ids, by the program that answered, once every program's file was rotated often."""
    enough, asked = threading.Event(), {"webapp": [], "pusher": []}

    def call(caller):
        session = requests.Session()
        for number in itertools.count():
            if enough.is_set():
                return
            for program, path in (("webapp", "/v1/rerank"), ("pusher", "/progress")):
                request_id = f"{program}-{caller}-{number}-{'x' * (90 if number % 3 else 0)}"
                # Some lines are as long as lines may be.
                url = f"{stack.url}{path}?{'x' * (4000 if number % 7 == 0 else 0)}"
                body = {"query": f"q {number}", "documents": ["a", "b"]} if program == "webapp" else None
                method = "POST" if body else "GET"
                headers = {"X-Request-Id": request_id}
                reply = session.request(method, url, json=body, headers=headers, timeout=PATIENCE_S)
                assert reply.status_code == 200, reply.text
                asked[program].append(request_id)

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, caller) for caller in range(CALLERS)]
        try:
            wait_for(lambda: all(len(files(stack, each)) > ROTATIONS for each in PROGRAMS), "they rotate")
        finally:
            enough.set()
        for each in calls:
            each.result()
    return asked


def files(stack, program):
    """The current and the older files of a program's log."""
    return sorted((stack.state_dir / "log").glob(f"{stack.program(program)}.log*"))


def access_lines(stack, program):
    """Request id -> how many access lines it has in the files of a program, none of which is torn."""
    found = Counter()
    for path in files(stack, program):
        raw = path.read_bytes()
        assert raw.endswith(b"\n"), path
        for line in raw.splitlines():
            assert len(line) < MOST_BYTES
            event = json.loads(line)
            assert list(event)[: len(FIRST)] == list(FIRST)
            found[event["request_id"]] += event["message"] == "request"
    return found


def written(stack, program):
    """Wait until the program's last lines are written: its files stay as they are between two looks."""
    looks = [None]

    def rests():
        with contextlib.suppress(FileNotFoundError):  # it is being renamed
            looks.append([(path.name, path.stat().st_ino, path.stat().st_size) for path in files(stack, program)])
            time.sleep(5 * TOGETHER_S)  # supervisord puts lines together for that long
        return looks[-1] == looks[-2]

    wait_for(rests, f"the log of {program} is written")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_access_line_is_once_and_whole_in_one_of_the_files(stack, asked, program):
    request_ids = asked["webapp"] + asked["pusher"] if program == "nginx" else asked[program]
    assert len(request_ids) > 100
    written(stack, program)
    found = access_lines(stack, program)
    assert {each: found[each] for each in request_ids} == dict.fromkeys(request_ids, 1)
    messages = {line["message"] for line in stack.log_lines("supervisord")}
    assert not [message for message in messages if "dropped" in message or "may be lost" in message]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.usefixtures("asked")
def test_a_file_is_rotated_when_it_has_reached_its_limit(stack, program):
    current, *older = files(stack, program)
    assert current.name.endswith(".log")
    assert len(older) >= ROTATIONS
    assert all(path.stat().st_size >= LIMIT_BYTES for path in older)


def test_the_lines_of_a_request_are_found_in_rotated_files(stack, asked):
    first = asked["webapp"][0]
    found = log_files.last(log_files.files_of(stack.state_dir / "log", ()), 100, log_files.Filter(first).takes)
    services = Counter(line["service"] for line in map(json.loads, found) if line["message"] == "request")
    assert services == Counter(nginx=1, webapp=1)
