"""What a worker does when no file descriptor is left."""

import errno
import logging
import socket

import gevent
import gevent.socket
import pytest
from running import PATIENCE_S

from webapp.servers.gunicorn.fd_shortage import LOG_EVERY_S, SHORT_S, FdShortage, hang_up


@pytest.fixture
def connection():
    ours, others = socket.socketpair()
    others.setblocking(False)
    yield ours, others
    ours.close()
    others.close()


def is_open(other):
    try:
        return other.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_shortage_closes_idle_connections_and_no_busy_one_and_then_each_after_its_answer(clock, connection):
    ours, other = connection
    descriptors = FdShortage(logging.getLogger(), clock=clock)
    descriptors.answered(ours)
    descriptors.busy(ours)
    descriptors.run_out()
    assert is_open(other), "it is at work"
    clock.now += SHORT_S / 2
    descriptors.answered(ours)
    assert not is_open(other), "it has its answer"


def test_after_a_shortage_connections_are_kept_again(clock, connection):
    ours, other = connection
    descriptors = FdShortage(logging.getLogger(), clock=clock)
    descriptors.run_out()
    clock.now += SHORT_S
    descriptors.answered(ours)
    assert is_open(other)
    descriptors.run_out()
    assert not is_open(other), "it was idle"


def test_it_is_told_once_a_minute_and_other_errors_are_handed_on(clock, caplog):
    others = []
    descriptors = FdShortage(logging.getLogger(), clock=clock)
    handle = descriptors.wrap(lambda *error: others.append(error))
    for moment in (0, 1, LOG_EVERY_S):
        clock.now = 100.0 + moment
        handle(None, OSError, OSError(errno.EMFILE, "Too many open files"), None)
    assert len([line for line in caplog.messages if "all file descriptors are in use" in line]) == 2
    handle(None, OSError, OSError(errno.EPIPE, "Broken pipe"), None)
    handle(None, ValueError, ValueError(), None)
    assert len(others) == 2


def test_a_read_from_a_connection_that_is_hung_up_ends_without_an_error():
    ours, other = gevent.socket.socketpair()
    waits = gevent.spawn(ours.recv, 1)
    gevent.idle()
    hang_up(ours)
    assert waits.get(timeout=PATIENCE_S) == b""
    ours.close()
    other.close()
    hang_up(ours)
