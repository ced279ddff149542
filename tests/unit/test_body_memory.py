"""The memory of large bodies is charged before they are read, and given back whatever becomes of them."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading

import gevent
import pytest
from app_kit import InlineReader, create_app
from flask import Response as Reply
from werkzeug.test import EnvironBuilder, run_wsgi_app

from webapp.api.body_process import ProcessReader
from webapp.api.body_reader import Limits
from webapp.config import resources
from webapp.config.resources import trimmer
from webapp.config.settings import Settings
from webapp.domain.concurrency import run_inline
from webapp.domain.errors import CancelledError, DeadlineExceededError, OverloadedError
from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import BODY_FACTOR, Admission, body_memory_bytes
from webapp.scheduling.shared_sum import SharedSum
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import InflightScores
from webapp.service.reranker import RerankService

BODY = {"query": "q", "documents": ["a", "b"]}
LIMIT = 1_000_000
"""Memory for two bodies of 100 KB, and not for three."""
LARGE = json.dumps(BODY).encode() + b" " * 100_000
MIB = 1024 * 1024


class Unread(io.BytesIO):
    """A body that nobody may read."""

    def readinto(self, _):
        raise AssertionError("the body was read")

    read = readinto


class Api:
    """The API with an admission that bounds the memory of bodies."""

    def __init__(self, rig, **options):
        self.admission = Admission(max_ongoing_requests=10, max_body_memory_bytes=LIMIT)
        self.service = RerankService(
            model=StubEngine.info,
            scoring=InflightScores(scheduler=rig.scheduler, cache=None, artifact="stub", make_waiter=GeventWaiter),
            admission=self.admission,
            max_documents=100,
            texts=StubEngine().texts,
        )
        self.app = create_app(self.service, **{"request_timeout_s": 30, "max_body_bytes": MIB, "limits": {}, **options})
        self.client = self.app.test_client()

    @property
    def charged(self):
        return self.admission.body_memory_bytes

    def post(self, body=LARGE, path="/rerank", *, length=0, **headers):
        """A reply whose body was not taken yet, so that the server has not closed it."""
        environ = EnvironBuilder(path, method="POST", headers=headers).get_environ()
        environ["wsgi.input"] = io.BytesIO(body) if isinstance(body, bytes) else body
        environ["wsgi.input_terminated"] = True
        environ.pop("CONTENT_LENGTH", None)
        if length is not None:
            environ["CONTENT_LENGTH"] = str(length or len(body if isinstance(body, bytes) else LARGE))
        parts, status, sent = run_wsgi_app(self.app, environ)
        return Reply(parts, status, sent)


@pytest.fixture
def api(stub_rig):
    return Api(stub_rig)


def full(api):
    """Take the memory of two large bodies."""
    return api.admission.arrive(LIMIT // 2 // BODY_FACTOR * 2 - 10_000)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/rerank", 503),
        ("/rerank/batch", 503),
        ("/v1/rerank", 429),
        ("/v2/rerank", 429),
        ("/predict", 429),
        ("/score", 429),
        ("/tokenize", 429),
    ],
)
def test_a_body_without_room_is_refused_unread_with_the_callers_status(api, path, status):
    with full(api):
        reply = api.post(Unread(), path)
        assert reply.status_code == status
        assert int(reply.headers["Retry-After"]) >= 1
        assert str(LIMIT) in reply.get_data(as_text=True)


def test_the_refusal_says_how_much_is_taken_and_how_much_may(api):
    with full(api):
        error = api.post(Unread()).json["error"]
        assert (error["code"], error["limit"], error["queued"]) == ("overloaded", LIMIT, api.charged)


def test_an_error_after_a_body_was_taken_is_told_in_the_same_format_whatever_its_size(stub_rig):
    class Late(InlineReader):
        def __call__(self, *_):
            raise DeadlineExceededError("the time was over before the body was read")

    client = Api(stub_rig, reader=Late(Limits(MIB))).client
    many = json.dumps({"query": "q", "documents": ["a"] * 5000}).encode()
    replies = [client.post("/rerank", data=body) for body in (many, LARGE)]
    assert [reply.status_code for reply in replies] == [504, 504]
    assert len({tuple(reply.json) for reply in replies}) == 1


def test_a_small_body_is_served_beside_large_ones(api):
    with full(api):
        assert api.client.post("/rerank", json=BODY).status_code == 200


def test_a_small_body_of_many_values_is_served_beside_large_ones(api):
    api.service.max_documents = 10_000
    with full(api):
        reply = api.client.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 5000, "return_documents": True})
        assert reply.status_code == 200


def test_a_body_larger_than_any_may_be_is_413_though_there_is_no_room(api):
    with full(api):
        assert api.post(Unread(), length=10 * MIB).status_code == 413


@pytest.mark.parametrize(
    ("body", "path", "headers", "status"),
    [
        (LARGE, "/rerank", {}, 200),
        (LARGE, "/v1/rerank", {}, 200),
        (b"[" + json.dumps(BODY).encode() + b" " * 100_000 + b"]", "/rerank/batch", {}, 200),
        (b'{"inputs": "a"}' + b" " * 100_000, "/tokenize", {}, 200),
        (b"x" * 100_000, "/rerank", {}, 400),
        (b'{"query": "q", "documents": 3}' + b" " * 100_000, "/v1/rerank", {}, 400),
        (b'{"query": "q", "documents": ["a"' + b',"a"' * 1000 + b"]}" + b" " * 100_000, "/rerank", {}, 400),
        (LARGE, "/rerank", {"X-Request-Timeout": "0.000001"}, 429),
        (LARGE, "/rerank", {"X-Request-Timeout": "never"}, 400),
        (LARGE, "/rerank", {"Content-Encoding": "br"}, 415),
        (LARGE, "/rerank", {"Content-Encoding": "gzip"}, 400),
    ],
)
def test_every_way_out_gives_place_and_memory_back(api, body, path, headers, status):
    reply = api.post(body, path, **headers)
    assert reply.status_code == status
    reply.get_data()
    reply.close()
    assert (api.charged, api.service.ongoing) == (0, 0)


def test_a_reply_is_charged_until_it_is_gone(api):
    body = json.dumps({"query": "q", "documents": [{"content": "bees " * 20_000}]}).encode()
    reply = api.post(body)
    assert reply.status_code == 200
    assert (api.charged, api.service.ongoing) == (reply.content_length, 0)
    reply.close()
    assert api.charged == 0


def test_what_was_read_is_charged_by_its_size(stub_rig):
    charged = []

    class Noting(InlineReader):
        def __call__(self, *arguments):
            answer = super().__call__(*arguments)
            charged.append(api.charged)
            return answer

    api = Api(stub_rig, reader=Noting(Limits(MIB)))
    rerank_many = api.service.rerank_many

    def then(*arguments, **options):
        charged.append(api.charged)
        return rerank_many(*arguments, **options)

    api.service.rerank_many = then
    assert api.post().status_code == 200
    assert charged[0] == len(LARGE) * BODY_FACTOR
    assert charged[1] < 1000


def test_a_body_of_unknown_length_is_charged_as_it_comes(api):
    assert api.post(length=None).status_code == 200
    with full(api):
        refused = api.post(length=None)
        assert (refused.status_code, refused.json["error"]["code"]) == (503, "overloaded")
        assert api.client.post("/rerank", json=BODY).status_code == 200


def test_a_packed_body_that_becomes_more_than_was_expected_is_refused_when_it_does(api):
    texts = {"query": "q", "documents": ["\U0001f41d" + "a" * 50_000], "return_documents": True}
    body = gzip.compress(json.dumps(texts, ensure_ascii=False).encode())
    headers = {"Content-Encoding": "gzip"}
    reply = api.post(body, **headers)
    assert reply.status_code == 200
    reply.close()
    with api.admission.arrive((LIMIT - 100_000) // BODY_FACTOR):
        assert api.post(body, "/v1/rerank", **headers).status_code == 429


def test_one_body_always_fits_where_nothing_else_is_at_work():
    admission = Admission(max_ongoing_requests=10, max_body_memory_bytes=1000)
    with admission.arrive(10_000), pytest.raises(OverloadedError), admission.arrive(1):
        pass
    with admission.arrive(10_000):
        pass
    assert admission.body_memory_bytes == 0


def test_a_request_that_waits_to_be_read_is_at_work(stub_rig):
    seen = []

    class Slow(InlineReader):
        def __call__(self, *arguments):
            seen.append(api.service.ongoing)
            return super().__call__(*arguments)

    api = Api(stub_rig, reader=Slow(Limits(MIB)))
    assert api.post().status_code == 200
    assert seen == [1]


def test_requests_that_wait_to_be_read_count_towards_the_limit_of_those_at_work(stub_rig):
    statuses = []

    class Full(InlineReader):
        def __call__(self, *arguments):
            api.admission.max_ongoing_requests = 1
            statuses.append(api.client.post("/v1/rerank", json=BODY).status_code)
            return super().__call__(*arguments)

    api = Api(stub_rig, reader=Full(Limits(MIB)))
    assert api.post().status_code == 200
    assert statuses == [429]


def test_a_request_whose_caller_hangs_up_while_its_body_waits_is_given_up(stub_rig):
    waiting = []

    class Watch:
        def __enter__(self):
            waiting.append(gevent.getcurrent())

        def __exit__(self, *_):
            waiting.clear()

    reader, busy, later = ProcessReader(GeventWaiter, Limits(MIB)), threading.Event(), float("inf")
    other = gevent.spawn(reader._turns, "other", later, busy.wait)
    gevent.sleep(0)
    api = Api(stub_rig, reader=reader, watch=lambda _: Watch())
    asking = gevent.spawn(lambda: api.post().status_code)
    gevent.sleep(0)
    assert (api.service.ongoing, api.charged) == (1, len(LARGE) * BODY_FACTOR)
    gevent.get_hub().loop.run_callback(waiting[0].throw, CancelledError("the caller hung up"))
    assert (asking.get(), waiting) == (499, [])
    assert (api.service.ongoing, api.charged) == (0, 0)
    busy.set()
    other.join()
    reader._turns("other", later, int)
    assert reader._process is None, "nobody reads what nobody waits for"
    reader.stop()


def test_memory_of_a_killed_process_is_forgotten(tmp_path):
    path = tmp_path / "sum"
    mine = SharedSum(path)
    mine.add(5)
    code = (
        "import sys, pathlib, time; from webapp.scheduling.shared_sum import SharedSum;"
        "SharedSum(pathlib.Path(sys.argv[1])).add(7); print(flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    other.stdout.readline()
    assert (mine.own, mine.total()) == (5, 12)
    mine.reset_dead()
    assert mine.total() == 12, "it lives"
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert mine.total() == 12
    admission = Admission(max_ongoing_requests=9, max_body_memory_bytes=5 + BODY_FACTOR, body_memory=mine)
    with admission.arrive(1):
        assert mine.total() == 5 + BODY_FACTOR


def test_workers_of_all_colors_share_one_limit(tmp_path):
    """Two admissions share a file, as workers after a fork and colors in one state directory do."""
    path = tmp_path / "sum"
    one, two = (
        Admission(max_ongoing_requests=9, max_body_memory_bytes=100, body_memory=SharedSum(path)) for _ in range(2)
    )
    with one.arrive(20), pytest.raises(OverloadedError) as refused, two.arrive(6):
        pass
    assert refused.value.figures["queued"] == 80
    with two.arrive(6):
        assert (one.body_memory_bytes, two.body_memory_bytes) == (0, 24)


def test_a_child_counts_for_itself(tmp_path):
    total = SharedSum(tmp_path / "sum")
    total.add(5)
    pid = os.fork()
    if not pid:
        total.add(1)
        os._exit(total.own * 10 + total.total())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 16
    total.reset_dead()
    assert total.total() == 5


def test_a_process_without_a_state_directory_counts_alone(tmp_path):
    alone = SharedSum(tmp_path / "missing" / "sum")
    alone.add(5)
    alone.reset_dead()
    assert (alone.own, alone.total()) == (5, 5)


@pytest.mark.parametrize(
    ("memory", "settings", "expected"),
    [
        (64 * 1024, {}, 512),
        (1024, {}, 256),
        (256, {}, 128),
        (64 * 1024, {"max_body_memory_mb": 2000}, 2000),
        (64 * 1024, {"max_body_memory_mb": 1}, 128),
        (64 * 1024, {"max_body_mb": 1024}, 4096),
    ],
)
def test_the_limit_is_512_or_a_quarter_of_the_memory_and_never_less_than_one_body(
    monkeypatch, memory, settings, expected
):
    monkeypatch.setattr("webapp.scheduling.admission.memory_bytes", lambda: memory * MIB)
    chosen = Settings(**settings)
    assert body_memory_bytes(chosen.max_body_bytes, chosen.max_body_memory_mb) == expected * MIB


def test_the_memory_of_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PROC", tmp_path)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path / "groups")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/a/b\n")
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemAvailable: 2048 kB\n")
    assert resources.memory_bytes() == 4 * MIB
    inner = tmp_path / "groups" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{3 * MIB}\n")
    assert resources.memory_bytes() == 3 * MIB
    (inner.parent / "memory.current").write_text(f"{2 * MIB}\n")
    (inner.parent / "memory.stat").write_text(f"anon 1\ninactive_file {MIB // 2}\n")
    assert resources.free_bytes() == 3 * MIB // 2


def test_memory_is_given_back_once_after_each_change():
    changes, given = [0], []
    trim = trimmer(lambda: changes[0], run_inline, lambda: given.append(changes[0]))
    for now in (0, 1, 1, 3):
        changes[0] = now
        trim()
    assert given == [1, 3]
