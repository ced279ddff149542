"""State file, intake and streams: each alone."""

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import zmq
from flask import Flask
from running import PATIENCE_S

from contracts.api_keys import KeyRing
from contracts.events import VERSION, Finished, Frame, Source, Worker, encode
from pusher import routes, state_file
from pusher.access import Access, Viewer
from pusher.intake import Intake
from pusher.relay import Relay, Update
from pusher.settings import listed
from pusher.settings import load_settings as pusher_settings
from pusher.sockets import WholeSends
from pusher.streams import MOST_STREAMS, Streams, TooManyStreamsError
from webapp.api.dialects.unknown import dump_error
from webapp.domain.errors import MethodNotAllowedError, NotFoundError, OverloadedError, UnauthorizedError

DASHBOARD = Path(__file__).resolve().parents[3] / "pusher" / "dashboard"


def test_memory_survives_and_missing_or_stale_memory_is_a_fresh_start(tmp_path):
    path = tmp_path / "pusher.json"
    assert state_file.recall(path, 1000.0).counts()["ended"] == {}
    relay = Relay(0.0)
    end = Finished(id="a", dialect="native", pairs=1, status="ok", latency_ms=1.0)
    relay.take(Frame(v=VERSION, source=Source(id="w", pid=1), seq=0, events=[end]), 1.0)
    state_file.save(relay, path, 1000.0)
    saved_at = json.loads(path.read_text())["at"]
    assert state_file.recall(path, saved_at).counts()["ended"] == {"ok": 1}
    os.utime(path, (time.time() - 10_000,) * 2)
    assert state_file.recall(path, saved_at).counts()["ended"] == {}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"at": 1e12, "ended": 3}', '{"at": 1e12}', "null"])
def test_damaged_memory_is_a_fresh_start(tmp_path, damage):
    path = tmp_path / "pusher.json"
    path.write_text(damage)
    assert state_file.recall(path, 1000.0).counts()["ended"] == {}


def test_memory_that_can_t_be_saved_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        state_file.save(Relay(0.0), tmp_path / "nowhere" / "pusher.json", 1000.0)


def test_the_intake_counts_and_skips_what_it_can_t_read():
    taken, skipped = [], []
    intake = Intake("ipc:///nowhere", take=taken.append, count=skipped.append)
    for message in (b"rubbish", b'{"v": 9}', encode(Source(id="w", pid=1), 0, [Worker(state="ready")])):
        intake.take(message)
    assert skipped == ["malformed", "newer"]
    assert [frame.source.id for frame in taken] == ["w"]


def test_the_intake_skips_types_of_events_that_it_does_not_know_or_no_longer():
    taken, skipped = [], []
    intake = Intake("ipc:///nowhere", take=taken.append, count=skipped.append)
    known = encode(Source(id="w", pid=1), 0, [Worker(state="ready")])
    for kind in (b"cancelled", b"unheard-of"):
        intake.take(known.replace(b'"worker"', b'"%s"' % kind))
        intake.take(known)
    assert skipped == ["malformed", "malformed"]
    assert len(taken) == 2


def test_a_setting_that_is_no_text_starts_no_pusher(monkeypatch, tmp_path):
    file = tmp_path / "reranking.yaml"
    file.write_text("api_keys:\n")
    monkeypatch.setenv("RERANK_CONFIG", str(file))
    with pytest.raises(SystemExit, match="api_keys is no text"):
        pusher_settings()


def test_repeated_failures_to_bind_an_address_leak_no_descriptor():
    intake = Intake("ipc:///nowhere/intake", take=lambda _: None, count=lambda _: None)

    held = set()
    for _ in range(5):
        with pytest.raises(zmq.ZMQError):
            intake.run()
        held.add(len(list(Path("/proc/self/fd").iterdir())))
    assert len(held) == 1, "no descriptors, which stand for threads, too"


def running(scored, key="w/r"):
    return {"key": key, "id": "r", "status": "running", "scored": scored}


def ended(key="w/r"):
    return {"key": key, "id": "r", "status": "ok"}


def test_a_slow_stream_misses_what_is_overtaken_and_gets_the_end():
    streams = Streams()
    events = streams.follow("r", Viewer("me", operator=False), [])
    assert next(events).startswith("retry:")
    for scored in range(50):
        streams.push(Update("r", "me", running(scored)))
    assert '"scored":49' in next(events)
    streams.push(Update("r", "somebody else", running(99)))
    streams.push(Update("r", "somebody else", ended()))
    streams.push(Update("r", "me", ended()))
    assert list(events) == ['event: finished\ndata: {"key":"w/r","id":"r","status":"ok"}\n\n']
    assert streams.count == 0


def test_a_stream_has_no_update_of_another_owner_s_request():
    streams = Streams()
    events = streams.follow("r", Viewer("me", operator=False), [])
    next(events)
    slot = streams._slots["r"][0]
    streams.push(Update("r", "other", ended()))
    assert slot.take() == []
    events.close()
    assert streams._slots == {}


def test_an_operator_s_stream_goes_on_while_another_owner_s_request_has_the_id():
    streams = Streams()
    events = streams.follow("r", Viewer("boss", operator=True), [running(1, "w/ann/r"), running(2, "w/bob/r")])
    assert [next(events).split("\n")[0] for _ in range(3)] == ["retry: 1000", "event: progress", "event: progress"]
    streams.push(Update("r", "ann", ended("w/ann/r")))
    assert '"key":"w/ann/r","id":"r","status":"ok"' in next(events)
    streams.push(Update("r", "bob", ended("w/bob/r")))
    assert len(list(events)) == 1
    assert streams.count == 0


def test_streams_end_when_keys_have_changed():
    streams = Streams()
    events = streams.follow("r", Viewer("me", operator=False), [])
    next(events)
    streams.close_all()
    streams.push(Update("r", "me", running(1)))
    assert list(events) == []


@pytest.mark.parametrize(
    ("method", "path", "error", "status"),
    [
        ("GET", "/progress/x", UnauthorizedError("send an API key: Authorization: Bearer KEY"), 401),
        ("GET", "/progress", UnauthorizedError("send an operator's key: Authorization: Bearer KEY"), 401),
        ("POST", "/progress/x", MethodNotAllowedError("this method is not served"), 405),
        ("GET", "/progress/x/y", NotFoundError("there is nothing at this path"), 404),
        ("GET", "/progress/full?key", OverloadedError("too many followers"), 503),
    ],
)
def test_a_follower_is_refused_with_the_body_that_the_api_has(method, path, error, status):
    streams = Streams()
    streams.count = MOST_STREAMS
    app = Flask(__name__)
    routes.install(app, Relay(0.0), Access(KeyRing("k"), KeyRing()), streams)
    headers = {"X-Request-Id": "mine", **({"Authorization": "Bearer k"} if "key" in path else {})}
    reply = app.test_client().open(path, method=method, headers=headers)
    assert reply.status_code == status
    assert reply.json == json.loads(dump_error(error, status, "mine"))
    assert reply.headers["X-Request-Id"] == "mine"
    assert ("Retry-After" in reply.headers) == (status == 503)


def test_streams_are_limited():
    streams = Streams()
    streams.count = MOST_STREAMS
    with pytest.raises(TooManyStreamsError):
        streams.follow("r", Viewer("", operator=True), [])


def test_a_send_is_whole_even_when_the_window_is_small():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data, got = b"x" * 1_000_000, bytearray()

    def read():
        while len(got) < len(data):
            got.extend(theirs.recv(65536))

    reader = threading.Thread(target=read)
    reader.start()
    assert WholeSends(ours).send(data) == len(data)
    reader.join()
    assert len(got) == len(data)
    ours.close()
    theirs.close()


def test_the_lock_file_pins_by_hash_and_names_no_registry():
    packages = json.loads((DASHBOARD / "package-lock.json").read_text())["packages"]
    ours = packages.pop("")
    assert ours["dependencies"] == json.loads((DASHBOARD / "package.json").read_text())["dependencies"]
    for package in packages.values():
        assert "resolved" not in package
        assert package["integrity"].startswith("sha512-")


def test_settings_follow_the_webapp_s(monkeypatch, tmp_path):
    from webapp.config.settings import load_settings

    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    assert pusher_settings().socket == load_settings().pusher_socket
    assert pusher_settings().intake_address == load_settings().events_address


def test_a_pusher_of_several_stacks_listens_where_its_arguments_say_and_nowhere_that_stacks_settings_do(monkeypatch):
    for name, value in {"EVENTS_ENDPOINT": "tcp://127.0.0.1:5999", "LISTEN": "0.0.0.0:1", "EVENTS_KEY": "k"}.items():
        monkeypatch.setenv(f"RERANK_{name}", value)
    own, shared = pusher_settings(), pusher_settings(["127.0.0.1:8081", "tcp://127.0.0.1:5557"])
    assert (own.listen, own.intake_address, own.events_key) == ("", f"ipc://{own.run_dir}/events.sock", "k")
    assert (shared.listen, shared.intake_address) == ("127.0.0.1:8081", "tcp://127.0.0.1:5557")


def test_a_settings_file_that_is_gone_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANK_CONFIG", str(tmp_path / "gone.yaml"))
    with pytest.raises(SystemExit, match=r"pusher: RERANK_CONFIG: .*gone.yaml can't be read"):
        pusher_settings()


def test_lists_are_comma_separated():
    assert listed(" a, b ,,c") == ["a", "b", "c"]


def test_a_browser_that_does_not_read_is_hung_up_on(monkeypatch):
    from gevent import socket as cooperative

    monkeypatch.setattr("pusher.sockets.SEND_S", 0.2)
    ours, theirs = cooperative.socketpair()
    with pytest.raises(TimeoutError):
        WholeSends(ours).send(b"x" * 10_000_000)
    theirs.settimeout(PATIENCE_S)
    while theirs.recv(1_000_000):  # what was on the way, then the end
        pass
    ours.close()
    theirs.close()
