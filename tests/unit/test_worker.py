import io
import logging
import os
import signal
import socket
from types import SimpleNamespace

import gevent

from webapp.servers.gunicorn.worker import PIECE_BYTES, Body, HeadWithBody, Worker


class Recorder:
    def __init__(self):
        self.sent = []

    def sendall(self, data):
        self.sent.append(data)

    def sendfile(self, file):
        self.sent.append(file)


def test_head_and_first_part_of_the_body_leave_in_one_piece():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head;")
    assert wire.sent == []
    for part in (b"one;", b"two"):
        connection.sendall(part)
    connection.flush()
    assert wire.sent == [b"head;one;", b"two"]


def test_a_head_alone_is_sent_at_the_end():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head")
    connection.flush()
    connection.flush()
    assert wire.sent == [b"head"]


def test_a_file_follows_its_head():
    wire = Recorder()
    connection = HeadWithBody(wire)
    connection.sendall(b"head")
    connection.sendfile("file")
    connection.flush()
    assert wire.sent == [b"head", "file"]


def test_everything_else_is_the_sockets_own():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"peek")
        assert HeadWithBody(ours).recv(4, socket.MSG_PEEK) == b"peek"


def test_only_a_worker_that_serves_asks_to_be_replaced(monkeypatch):
    signals = []
    monkeypatch.setattr("os.kill", lambda *sent: signals.append(sent))
    worker = object.__new__(Worker)
    worker.tmp, worker.ppid, worker.log, worker._idle = SimpleNamespace(notify=list), os.getppid(), logging, set()
    worker._recycling = SimpleNamespace(due=lambda: 10**9)
    for worker.alive in (False, True):
        worker.notify()
    assert signals == [(os.getppid(), signal.SIGHUP)]


def turns_while(run):
    """How often another greenlet had its turn while `run` went on."""
    turns = []

    def count():
        while True:
            turns.append(1)
            gevent.sleep(0)

    counting = gevent.spawn(count)
    run()
    counting.kill()
    return len(turns)


def test_a_long_reply_is_sent_in_pieces_between_which_others_have_their_turn():
    wire = Recorder()
    connection = HeadWithBody(wire)
    body = bytes(range(256)) * (PIECE_BYTES // 256) * 8 + b"end"
    connection.sendall(b"head;")
    assert turns_while(lambda: connection.sendall(body)) >= 8
    assert b"".join(wire.sent) == b"head;" + body
    assert len(wire.sent) == 9


def test_a_long_body_is_read_in_pieces_between_which_others_have_their_turn():
    sent = bytes(PIECE_BYTES * 8)
    body = Body(io.BytesIO(sent))
    received = []

    def read_all():
        while part := body.read(64 * 1024):
            received.append(part)

    assert turns_while(read_all) >= 8
    assert b"".join(received) == sent
    assert body.readline() == b""
