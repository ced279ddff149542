"""Large replies as files that nginx sends."""

import os
import time
from contextlib import nullcontext

import pytest
from app_kit import InlineReader
from flask import Flask, Response

from webapp.api import errors, middleware
from webapp.api.body_reader import Limits
from webapp.api.reply_files import LARGE_BYTES, UNOPENED_S, ReplyFiles, send_large_as_files
from webapp.api.routes.rerank import add_warnings
from webapp.domain.concurrency import run_inline
from webapp.telemetry.observer import Observer


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "replies"


@pytest.fixture
def files(folder, monkeypatch):
    monkeypatch.setattr("webapp.api.reply_files.LAST_S", 0)
    made = ReplyFiles(folder)
    made.open()
    yield made
    made.close()


def names(folder):
    return [file.name for file in folder.iterdir()]


def test_a_reply_is_there_whole_and_private_until_nginx_opened_it(files, folder):
    path = files.put(b"reply" * 100_000)
    file = folder / path.removeprefix("/.reply/")
    files.collect()
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("rb") as opened:
        files.collect()
        assert names(folder) == []
        assert opened.read() == b"reply" * 100_000


def test_each_reply_has_a_file_of_its_own(files, folder):
    first, second = files.put(b"first"), files.put(b"second")
    (folder / first.removeprefix("/.reply/")).read_bytes()
    files.collect()
    assert names(folder) == [second.removeprefix("/.reply/")]


def test_a_file_that_nginx_never_opens_is_removed_after_a_while(files, folder, monkeypatch):
    files.put(b"its caller left")
    files.collect()
    assert len(names(folder)) == 1
    later = time.monotonic() + UNOPENED_S + 1
    monkeypatch.setattr("webapp.api.reply_files.time.monotonic", lambda: later)
    files.collect()
    assert names(folder) == []


def test_on_a_disk_that_can_not_be_written_files_stay_until_it_can(files, folder, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    (folder / files.put(b"reply").removeprefix("/.reply/")).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", read_only)
        files.collect()
    later = time.monotonic() + UNOPENED_S + 1
    monkeypatch.setattr("webapp.api.reply_files.time.monotonic", lambda: later)
    files.collect()
    assert names(folder) == []


def test_a_new_worker_removes_what_dead_ones_and_its_namesake_left_and_nothing_of_the_living(folder):
    folder.mkdir()
    living = f"{os.getppid()}-a"
    for name in (living, "4194305-b", f"{os.getpid()}-c"):
        (folder / name).write_bytes(b"reply")
    files = ReplyFiles(folder)
    files.open()
    files.close()
    assert names(folder) == [living]


def test_a_worker_that_ends_leaves_nothing(files, folder):
    files.put(b"reply")
    files.close()
    assert names(folder) == []


def test_what_can_not_be_written_leaves_nothing(files, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webapp.api.reply_files._libc", full)  # the last of its steps
    with pytest.raises(OSError, match="No space"):
        files.put(b"reply")
    assert names(folder) == []


@pytest.fixture
def client(files):
    app = Flask("test")
    observer = Observer()
    observer.replied = lambda reply: app.config.update(told=reply.status)
    middleware.install(app, request_timeout_s=1, reader=InlineReader(Limits(1)), watch=nullcontext, observer=observer)
    send_large_as_files(app, files, run_inline)
    errors.install(app, known_paths=())

    @app.post("/<int:size>")
    def view(size):
        reply = Response(b"x" * size, content_type="application/json")
        add_warnings(reply, ["one", "two"])
        reply.call_on_close(lambda: app.config.update(closed=True))
        return reply

    return app.test_client()


def test_a_large_reply_names_its_file_and_keeps_its_warnings_in_one_line(client, folder):
    reply = client.post(f"/{LARGE_BYTES + 1}")
    assert (reply.status_code, reply.data, reply.headers["Content-Length"]) == (200, b"", "0")
    assert (folder / reply.headers["X-Accel-Redirect"].removeprefix("/.reply/")).stat().st_size == LARGE_BYTES + 1
    assert reply.headers.getlist("X-Rerank-Warning") == ["one, two"]


def test_a_reply_that_fits_into_one_piece_is_sent_as_it_is(client, folder):
    reply = client.post(f"/{LARGE_BYTES}")
    assert len(reply.data) == LARGE_BYTES
    assert names(folder) == []


def test_without_room_on_the_disk_a_large_reply_is_refused_with_the_reason(client, folder):
    folder.rmdir()
    reply = client.post(f"/{LARGE_BYTES + 1}")
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "10")
    assert "No such file or directory" in reply.json["error"]["message"]
    assert client.application.config["told"] == 503
    assert client.application.config["closed"], "the reply that is not sent gave back its memory"


def test_a_reply_that_is_lost_on_its_way_to_the_file_gives_back_its_memory(client, files, monkeypatch):
    monkeypatch.setattr(files, "put", lambda _: 1 / 0)
    assert client.post(f"/{LARGE_BYTES + 1}").status_code == 500
    assert client.application.config["closed"]


def test_where_files_can_not_be_watched_replies_are_sent_as_ever(client, files):
    files.close()
    assert len(client.post(f"/{LARGE_BYTES + 1}").data) == LARGE_BYTES + 1
