"""A log that can't be written: the line is lost, somebody is told, the next line is tried anew."""

from pathlib import Path

import pytest

from supervisor import loggers
from webapp.log_patience import TELL_EVERY_S, Patience


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Full:
    """A stream on a full disk."""

    closed = False

    def write(self, _data):
        raise OSError(28, "No space left on device")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def handler(clock, monkeypatch, tmp_path):
    patience = Patience(clock)
    monkeypatch.setattr(loggers.Handler, "handleError", patience.handle_error())
    monkeypatch.setattr(loggers.RotatingFileHandler, "emit", patience.emit(loggers.RotatingFileHandler.emit))
    made = loggers.RotatingFileHandler(str(tmp_path / "webapp.log"), maxBytes=100, backupCount=1)
    made.setFormat("%(message)s")
    yield made
    made.close()


def write(handler, line):
    handler.emit(loggers.LogRecord(loggers.LevelsByName.INFO, line))


def test_it_is_told_once_a_minute_and_never_raised(handler, clock, capsys):
    usual, handler.stream = handler.stream, Full()
    handler.maxBytes = 0  # a stream that knows no position
    for clock.now in (0, 1, TELL_EVERY_S - 1, TELL_EVERY_S):
        write(handler, b"lost\n")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].endswith(
        "webapp.log can't be written ([Errno 28] No space left on device): lines are lost, the service goes on"
    )
    handler.stream = usual
    write(handler, b"kept\n")
    assert Path(handler.baseFilename).read_text() == "kept\n"


def test_a_rotation_that_failed_half_way_is_no_end_of_the_log(handler, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(handler, "removeAndRename", refuse)
        write(handler, b"x" * 200)
    assert "Read-only file system" in capsys.readouterr().err
    assert handler.stream.closed
    write(handler, b"after\n")
    logs = "".join(path.read_text() for path in sorted(Path(handler.baseFilename).parent.iterdir()))
    assert "after\n" in logs
