"""Logging of a Python process: one handler, one shape, to stderr; supervisord writes the files.

Exceptions are logged without their own words: a tokenizer, a parser or a codec quotes its input, and that may be a
document. Only exceptions that speak of the system or of code keep their words.
"""

from __future__ import annotations

import errno
import io
import logging
import logging.config
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from contracts.logging.foreign import without_query_strings
from contracts.logging.line import Form, head, renderer
from contracts.logging.lossy_pipe import Lossy

_HUNG_UP = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN})
"""Errors that only mean that the other side of a connection has left."""

MOST_FRAMES = 12
"""Most frames of one exception; the innermost are kept."""

MOST_CAUSES = 5

_ROOT = str(Path(__file__).resolve().parent.parent.parent) + "/"

OURS = ("webapp", "pusher", "contracts")

request_id_of_lines = ContextVar("request_id_of_lines", default="")
"""The request at work, for lines that don't name one themselves."""

_STANDARD = vars(logging.makeLogRecord({})).keys()
"""What every record has; further attributes of one are fields of its line."""

_GUNICORN_QUOTES = re.compile(r"(Invalid request from ip=[^:]*):.*", re.DOTALL)


def log_config(*, level: str, log_format: str, service: str, color: str = "") -> dict[str, Any]:
    """Return a `logging.config.dictConfig`, for our processes and for gunicorn's `logconfig_dict`.

    Args:
        level: the least that we log. Libraries log from warning up, gunicorn from info: below, they quote requests.
        log_format: json, human, or auto (human on a terminal).
        service: the program.
        color: its release slot.
    """
    chosen = level.upper()
    numbers = logging.getLevelNamesMapping()
    at_least = {name: max(chosen, name, key=numbers.__getitem__) for name in ("INFO", "WARNING")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": _LineFormatter, "service": service, "color": color, "form": _form(log_format)}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
        "root": {"level": at_least["WARNING"], "handlers": ["stderr"]},
        "loggers": {
            **{name: {"level": chosen} for name in OURS},
            "gunicorn.error": {"level": at_least["INFO"], "handlers": [], "propagate": True},
            # We write one access line a request ourselves, with facts that gunicorn does not have.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def configure(*, level: str, log_format: str, service: str, color: str = "") -> None:
    """Set up logging for this process; called by composition roots, never at import."""
    catch_the_rest(log_format=log_format, service=service, color=color)  # first, for stderr becomes another
    logging.config.dictConfig(log_config(level=level, log_format=log_format, service=service, color=color))
    logging.captureWarnings(capture=True)


def catch_the_rest(*, log_format: str, service: str, color: str = "") -> None:
    """Log uncaught exceptions, in greenlets, threads or anywhere, in our shape, too.

    They are written without the logging module: a native thread must not touch a lock that gevent patched.
    Call it before logging is set up: where stderr does not block, it becomes one that counts what it loses.
    """
    render = renderer(_form(log_format))

    def line(level: str, logger: str, message: str, **fields: str) -> bytes:
        return render(head(time.time(), level, service, color, os.getpid(), logger, message) | fields).encode() + b"\n"

    write_line = _stderr_that_never_waits(lambda message: line("warning", "logs", message))

    def write(message: str, error: BaseException, *, words: bool = False, level: str = "critical") -> None:
        write_line(line(level, "uncaught", message, exception=redact(error, words=words)))

    _install(write)


def _install(write: Callable[..., None]) -> None:
    """Have `write` called with uncaught exceptions."""

    def main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:  # it ends the process, most likely at its start
            write("the process ends", error, words=True)

    def thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            write("a thread ended", arguments.exc_value)

    def unraisable(arguments: Any) -> None:
        if arguments.exc_value is not None:
            write("an exception went nowhere", arguments.exc_value)

    def greenlet(_hub: Any, _context: Any, kind: type[BaseException], error: BaseException | None, _: Any) -> None:
        error = error or kind()
        hung_up = isinstance(error, OSError) and error.errno in _HUNG_UP
        write("a greenlet ended", error, level="info" if hung_up else "critical")

    sys.excepthook, threading.excepthook, sys.unraisablehook = main_thread, thread, unraisable
    if hub := sys.modules.get("gevent.hub"):  # else nothing makes greenlets
        hub.Hub.print_exception = greenlet


def _stderr_that_never_waits(note: Callable[[str], bytes]) -> Callable[[bytes], int]:
    """Return what writes to stderr; where that does not block, as under our supervisord, it counts lost lines."""
    try:
        blocks = os.get_blocking(2)
    except OSError:  # it is closed
        blocks = True
    if blocks:
        return lambda data: os.write(2, data)
    if not isinstance(getattr(sys.stderr, "buffer", None), Lossy):  # gunicorn reads its configuration again at HUP
        sys.stderr = io.TextIOWrapper(Lossy(2, note), errors="backslashreplace", write_through=True)
    write: Callable[[bytes], int] = sys.stderr.buffer.write
    return write


_OLDER_SUPERVISORD = "STACK_ROOT" in os.environ and "STACK_VERSION" not in os.environ
"""After an upgrade in place supervisord knows its programs' lines by a field `colour`. Goes in the next version."""


class _LineFormatter(logging.Formatter):
    """Makes lines of records; exceptions are redacted."""

    def __init__(self, service: str, color: str, form: Form) -> None:
        super().__init__()
        self._service = service
        self._color = color
        self._render = renderer(form)

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, without its end."""
        message = record.getMessage()
        if record.name == "gunicorn.error":  # without the parts of a request that it quotes
            message = without_query_strings(_GUNICORN_QUOTES.sub(r"\1", message))
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        request_id = fields.pop("request_id", request_id_of_lines.get())
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = redact(record.exc_info[1])
        if _OLDER_SUPERVISORD:
            fields["colour"] = self._color
        level, place = record.levelname.lower(), (self._service, self._color, os.getpid(), record.name)
        return self._render(head(record.created, level, *place, message, request_id) | fields)


def _form(log_format: str) -> Form:
    terminal = sys.stderr.isatty()
    if log_format == "human" or (log_format == "auto" and terminal):
        return "color" if terminal else "human"
    return "json"


def redact(error: BaseException, *, words: bool = False) -> str:
    """Return an exception and its causes, each with the places it passed, the innermost last.

    Args:
        error: that was raised.
        words: keep its own words, too; only where no request has been near.
    """
    found: list[str] = []
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(each))
        title = _title(each, words=words)
        found.append(f"caused by {title}" if found else title)
        frames = traceback.extract_tb(each.__traceback__)[-MOST_FRAMES:]
        found.extend(f"  {_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join(found)


def _title(error: BaseException, *, words: bool) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if words or isinstance(error, (ImportError, SyntaxError)):
        return f"{name}: {error}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f"{name}: {os.strerror(error.errno)}"
    return name


def _short(path: str) -> str:
    """Return a path without the folders of this machine."""
    _, found, inside = path.rpartition("/site-packages/")
    return inside if found else path.removeprefix(_ROOT)
