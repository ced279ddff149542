"""Large and packed bodies are read by a process of their own, beside the hub."""

import asyncio
import errno
import gzip
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from running import wait_for

from webapp.api import body_process
from webapp.api.body_process import ProcessReader
from webapp.api.body_reader import Limits, read
from webapp.api.dialects.base import SMALL_BYTES, Call
from webapp.api.dialects.registry import DIALECTS
from webapp.domain.concurrency import NativeWaiter
from webapp.domain.errors import DeadlineExceededError, PayloadTooLargeError, UnavailableError, UnsupportedEncodingError
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.servers.ray.bridge import AsyncioBridge, in_greenlet

MOST = 32 * 1024 * 1024
LATER = float("inf")
HEAD = b'{"query": "q", "documents": ['
WORST = HEAD + b",".join([b"{}"] * 6_000_000) + b"]}"
"""A body that takes a second to read."""


LIMITS = Limits(MOST, 10**9, 50_000)
"""Limits that allow very many values, so that reading them takes seconds."""


def reader(make_waiter=NativeWaiter):
    return ProcessReader(make_waiter, LIMITS)


@pytest.fixture(scope="module")
def read_in_process():
    """One process for all tests that leave it alive."""
    one = reader()
    yield one
    one.stop()


@pytest.fixture
def mortal():
    """A reader whose process may die."""
    one = reader(GeventWaiter)
    yield one
    one.stop()


def filled(body):
    """The same request in a body too large to be read at once."""
    return json.dumps(body).encode() + b" " * SMALL_BYTES


def texts(requests):
    return [(each.query, list(each.documents), each.top_n, each.truncation, each.warnings) for each in requests]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_large_body_asks_for_the_same_wherever_it_is_read(read_in_process, dialect):
    call = Call(dialect.paths[0].replace("{model}", "m"), dialect.headers, filled(dialect.example), model_url="m")
    in_process, at_once = read_in_process("rerank", call, LATER), read("rerank", call, LIMITS)
    assert in_process.dialect == at_once.dialect == dialect.name
    assert texts(in_process.requests) == texts(at_once.requests)
    assert dialect.parse(call)
    assert (in_process.nested, in_process.error) == (call.nested, None)


def test_what_only_passes_through_comes_back_byte_for_byte(read_in_process):
    metadata = b'{"a": 1e3, "a":0.1234567890123456789}'
    body = HEAD + b'{"content": "c", "metadata": ' + metadata + b"}]}" + b" " * SMALL_BYTES
    (request,) = read_in_process("rerank", Call("/rerank", {}, body), LATER).requests
    assert bytes(request.originals[0]) == metadata


def test_batches_and_texts_to_tokenise_are_read_there_too(read_in_process):
    good = {"query": "q", "documents": ["a"]}
    items = read_in_process("batch", Call("/rerank/batch", {}, filled([good, {"query": 1}])), LATER).requests
    assert items[0].documents == ["a"]
    assert (items[1].field, items[1].message) == ("query", "must be a string, not an integer")
    assert read_in_process("tokenize", Call("/tokenize", {}, filled({"inputs": "a"})), LATER)[0].texts == ["a"]


def test_an_error_names_the_place_in_the_callers_dialect(read_in_process):
    call = Call("/rerank", {}, filled({"query": "q", "documents": [{"content": "a", "metadata": 1}]}))
    asked = read_in_process("rerank", call, LATER)
    assert (asked.dialect, asked.error.field) == ("native", "documents[0].metadata")


def test_a_packed_body_is_unpacked_there(read_in_process):
    call = Call("/rerank", {"Content-Encoding": "gzip"}, gzip.compress(b'{"query": "q", "texts": ["a"]}'))
    asked = read_in_process("rerank", call, LATER)
    assert (asked.dialect, asked.requests[0].documents) == ("tei", ["a"])
    refused = read_in_process("rerank", replace(call, headers={"Content-Encoding": "br"}), LATER)
    assert isinstance(refused.error, UnsupportedEncodingError)


def test_more_documents_than_the_queue_holds_never_reach_the_worker(read_in_process):
    body = HEAD + b",".join([b'"a"'] * 50_001) + b"]}"
    asked = read_in_process("rerank", Call("/rerank", {}, body), LATER)
    assert isinstance(asked.error, PayloadTooLargeError)
    assert asked.error.figures == {"limit": 50_000}
    assert not asked.requests


def test_a_batch_of_more_requests_than_a_call_may_hold_never_reaches_the_worker(mortal):
    mortal._limits = replace(LIMITS, batch_requests=2)
    call = Call("/rerank/batch", {}, filled([{"query": "q", "documents": ["a"]}] * 3))
    refused = mortal("batch", call, LATER)
    assert isinstance(refused.error, PayloadTooLargeError)
    assert (refused.error.figures, refused.requests) == ({"limit": 2}, [])


def test_a_small_body_is_answered_before_a_large_one_that_came_first(mortal):
    order = []

    def ask(name, body):
        mortal("rerank", Call("/rerank", {}, body), LATER)
        order.append(name)

    large = gevent.spawn(ask, "large", WORST)
    gevent.sleep(0)  # it began
    small = gevent.spawn(ask, "small", b'{"query": "q", "documents": ["a"]}')
    gevent.joinall([large, small], raise_error=True)
    assert order == ["small", "large"]


def test_on_an_asyncio_loop_a_small_body_is_answered_first_too():
    order = []

    async def both():
        bridge = AsyncioBridge()
        one = reader(bridge.make_waiter)

        async def ask(name, body):
            await in_greenlet(lambda: one("rerank", Call("/rerank", {}, body), LATER))
            order.append(name)

        large = asyncio.create_task(ask("large", WORST))
        await asyncio.sleep(0)  # it began
        await ask("small", b'{"query": "q", "documents": ["a"]}')
        await large
        one.stop()
        bridge.close()

    asyncio.run(both())
    assert order == ["small", "large"]


def test_a_body_that_takes_too_long_is_given_up_and_the_next_one_is_read(mortal):
    with pytest.raises(DeadlineExceededError):
        mortal("rerank", Call("/rerank", {}, WORST), time.monotonic() + 0.2)
    assert mortal("rerank", Call("/rerank", {}, filled({"query": "q", "documents": ["a"]})), LATER).requests


def test_a_body_that_nobody_should_send_gets_413_after_a_while(mortal, monkeypatch):
    monkeypatch.setattr("webapp.api.body_process.MOST_CPU_S", 0.2)
    with pytest.raises(PayloadTooLargeError):
        mortal("rerank", Call("/rerank", {}, WORST), LATER)


def test_a_process_that_was_killed_is_replaced(mortal):
    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    assert mortal("rerank", call, LATER).requests
    os.kill(mortal._process._pid, signal.SIGKILL)
    assert mortal("rerank", call, LATER).requests


def test_a_body_that_takes_too_much_memory_gets_413(mortal, monkeypatch):
    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    mortal("rerank", call, LATER)
    (limit,) = re.findall(r"Max address space +(\d+)", Path(f"/proc/{mortal._process._pid}/limits").read_text())
    assert int(limit) == body_process.MEMORY_BYTES + body_process.MEMORY_FACTOR * MOST

    def read_too_much(*_):
        raise MemoryError

    monkeypatch.setattr(body_process, "read", read_too_much)  # what the process gets at the limit
    _, error = body_process._answer("rerank", call, LIMITS)
    assert isinstance(error, PayloadTooLargeError)


@pytest.mark.parametrize("fits", [True, False], ids=["the pipe holds the question", "the pipe is too small for it"])
def test_a_process_that_stands_still_is_replaced_when_the_time_is_over(mortal, fits):
    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    mortal("rerank", call, LATER)
    os.kill(mortal._process._pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceededError):
        mortal("rerank", call if fits else replace(call, body=WORST), time.monotonic() + 0.2)
    assert mortal("rerank", call, LATER).requests


def test_a_process_without_memory_to_send_what_it_read_tells_so_by_its_end(mortal, monkeypatch):
    signals = []

    def no_memory(*_):
        raise MemoryError

    def end(number):
        signals.append(number)
        raise SystemExit

    monkeypatch.setattr(pickle, "dump", no_memory)
    monkeypatch.setattr(signal, "raise_signal", end)
    question = pickle.dumps(("rerank", Call("/rerank", {}, b"{}"), 600.0, 600.0))
    with pytest.raises(SystemExit):
        body_process.serve(io.BytesIO(question), io.BytesIO(), LIMITS)
    monkeypatch.undo()
    reading = gevent.spawn(mortal, "rerank", Call("/rerank", {}, WORST), LATER)
    wait_for(lambda: gevent.sleep(0.001) or mortal._process, "it reads")
    os.kill(mortal._process._pid, *signals)
    with pytest.raises(PayloadTooLargeError):
        reading.get()


def test_a_worker_without_memory_for_an_answer_leaves_no_part_of_it_to_the_next(mortal, monkeypatch):
    def no_memory(answers):
        answers.read(1)
        raise MemoryError

    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    with monkeypatch.context() as patch:
        patch.setattr(pickle, "load", no_memory)
        with pytest.raises(MemoryError):
            mortal("rerank", call, LATER)
    assert mortal("rerank", call, LATER).requests


def test_a_body_waits_for_no_longer_than_its_caller_behind_others(mortal):
    first = gevent.spawn(mortal, "rerank", Call("/rerank", {}, WORST), LATER)
    gevent.sleep(0)
    with pytest.raises(DeadlineExceededError):
        mortal("rerank", Call("/rerank", {}, filled({"query": "q", "documents": ["a"]})), time.monotonic() + 0.01)
    assert not first.ready(), "told before its turn came"
    assert first.get()


def test_one_caller_s_bodies_wait_behind_another_s_first(mortal):
    order = []

    def ask(client, body):
        mortal("rerank", Call("/rerank", {}, body), LATER, client)
        order.append(client)

    asking = []
    for client, body in [("greedy", WORST)] * 3 + [("modest", filled({"query": "q", "documents": ["a"]}))]:
        asking.append(gevent.spawn(ask, client, body))
        gevent.sleep(0)
    gevent.joinall(asking, raise_error=True)
    assert order == ["greedy", "modest", "greedy", "greedy"]


def test_a_process_that_ended_itself_leaves_no_zombie(mortal, monkeypatch):
    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    mortal("rerank", call, LATER)
    pid = mortal._process._pid
    load = pickle.load
    monkeypatch.setattr(pickle, "load", lambda answers: load(answers) or True)  # a tuple, then whether it ends
    assert mortal("rerank", call, LATER).requests
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_of_a_worker_that_is_large_itself_is_kept(mortal):
    of_the_worker = b"x" * (body_process.MOST_KEPT_KB * 1024 + 1)
    call = Call("/rerank", {}, filled({"query": "q", "documents": ["a"]}))
    mortal("rerank", call, LATER)
    assert len(of_the_worker) > 0
    assert mortal._process is not None


def test_descriptors_that_can_t_be_had_refuse_the_body_and_leak_nothing(mortal, monkeypatch):
    made = []

    def pipe():
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.extend(pipe_of_the_system())
        return made

    pipe_of_the_system = os.pipe
    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(UnavailableError):
        mortal("rerank", Call("/rerank", {}, filled({"query": "q", "documents": ["a"]})), LATER)
    for end in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


@pytest.mark.parametrize("ends", ["in the middle of a question", "before the answer"])
def test_a_worker_that_is_killed_leaves_no_traceback_of_the_process(ends):
    process = subprocess.Popen(
        [sys.executable, "-m", "webapp.api.body_process", str(MOST), "2000000", "50000", "1000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    question = pickle.dumps(("rerank", Call("/rerank", {}, b'{"query": "q", "documents": ["a"]}'), 600.0, 600.0))
    process.stdout.close()
    process.stdin.write(question[:50] if ends == "in the middle of a question" else question)
    process.stdin.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()


@pytest.mark.parametrize(("kept_kb", "answered"), [(10**9, 2), (0, 1)])
def test_a_process_that_took_much_memory_ends_after_its_answer(monkeypatch, kept_kb, answered):
    monkeypatch.setattr(body_process, "MOST_KEPT_KB", kept_kb)
    question = pickle.dumps(("rerank", Call("/rerank", {}, b'{"query": "q", "documents": ["a"]}'), 600.0, 600.0))
    answers = io.BytesIO()
    body_process.serve(io.BytesIO(question * 2), answers, LIMITS)
    answers.seek(0)
    read_back = [(pickle.load(answers), pickle.load(answers)) for _ in range(answered)]  # noqa: S301
    assert [asked.requests[0].documents for (asked, _), _ in read_back] == [["a"]] * answered
    assert [last for _, last in read_back] == [kept_kb == 0] * answered
    assert answers.read() == b""


def test_the_process_ends_with_its_worker(mortal):
    mortal("rerank", Call("/rerank", {}, filled({"query": "q", "documents": ["a"]})), LATER)
    process = mortal._process
    process._questions.close()  # a killed worker closes it
    assert os.waitstatus_to_exitcode(os.waitpid(process._pid, 0)[1]) == 0
