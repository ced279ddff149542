"""The shape of a log line, and the level of an access line. PURE.

Laws: every line is one JSON object; the fields in FIRST are in each of them, and in this order; no line is longer than
what a pipe takes in one piece, so lines of several processes never mix.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

FIRST = ("time", "level", "service", "color", "pid", "logger", "message", "request_id")

MOST_BYTES = 4096
"""PIPE_BUF of Linux, the line's end included: the kernel writes that much in one piece, or nothing."""

_CUTS = (3000, 1000, 300, 60)
"""Most characters of one value; the first of these with which the line is short enough."""

MOST_PATH_CHARS = 256

HUNG_UP = 499
"""nginx's number for a client that left before it was answered."""

FAILED_DEPENDENCY = 424
"""The status of text-embeddings-inference where its engine fails."""

UNAVAILABLE = 503

Form = Literal["json", "human", "color"]


def stamp(seconds: float) -> str:
    """Return a time in UTC as ISO 8601 has it, to the millisecond.

    Args:
        seconds: since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def head(  # noqa: PLR0917 - the order of the line
    seconds: float, level: str, service: str, color: str, pid: int, logger: str, message: str, request_id: str = ""
) -> dict[str, Any]:
    """Return the fields that every line begins with; `seconds` are since 1970."""
    return dict(zip(FIRST, (stamp(seconds), level, service, color, pid, logger, message, request_id), strict=True))


def as_json(event: Mapping[str, Any]) -> str:
    """Return an event as a line, without its end; values that are too long are cut."""
    ordered = {name: event.get(name, "") for name in FIRST} | dict(event)
    for most_chars in _CUTS:
        line = _dump({name: _cut(value, most_chars) for name, value in ordered.items()})
        if len(line) < MOST_BYTES:  # ASCII, so characters are bytes; one is left for the line's end
            return line
    return _dump({name: _cut(ordered[name], _CUTS[-1]) for name in FIRST})


def renderer(form: Form) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that turns events into lines: JSON, or text for a terminal, with or without colors."""
    if form == "json":
        return as_json
    from structlog.dev import ConsoleRenderer  # noqa: PLC0415 - nothing else here needs it

    console = ConsoleRenderer(event_key="message", timestamp_key="time", colors=form == "color", pad_event_to=0)

    def as_text(event: Mapping[str, Any]) -> str:
        shown = {name: value for name, value in event.items() if name not in {"pid", "color"} and value != ""}
        exception = shown.pop("exception", None)
        text = console(None, "", shown)
        return f"{text}\n{exception}" if exception else str(text)

    return as_text


def level_of(status: int, *, comes_later: bool) -> int:
    """Return the `logging` level of a reply's access line. nginx's own lines follow the same rule (http.conf.j2).

    Args:
        status: of the reply.
        comes_later: whether it has `Retry-After`, so that a 503 is an intended refusal.
    """
    if status < 400 or status == HUNG_UP:  # noqa: PLR2004 - HTTP's own classes
        return logging.INFO
    if status >= 500 and not (status == UNAVAILABLE and comes_later):  # noqa: PLR2004
        return logging.ERROR
    return logging.ERROR if status == FAILED_DEPENDENCY else logging.WARNING


def access_fields(method: str, path: str, status: int, took_s: float) -> dict[str, Any]:
    """Return what every access line says of its request."""
    shown = {"method": method[:16], "path": path[:MOST_PATH_CHARS]}
    return {**shown, "status": status, "duration_ms": round(took_s * 1000, 3)}


def _dump(event: Mapping[str, Any]) -> str:
    # A value that JSON doesn't know becomes its type's name: its repr might hold a text.
    return json.dumps(event, separators=(",", ":"), default=lambda value: f"({type(value).__name__})")


def _cut(value: Any, most_chars: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most_chars else f"{value[:most_chars]}…"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = _dump({"": value})
    return value if len(text) <= most_chars else f"({type(value).__name__}, too long)"
