"""Lines of programs that can't write our shape: nginx's errors, an interpreter's last words, a C library. PURE."""

from __future__ import annotations

import json
import re
from typing import Any

from contracts.logging.line import FIRST, head

_NGINX = re.compile(r"(\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d) \[(\w+)\] (\d+)#\d+: (?:\*(\d+) )?(.*)")
_NGINX_BEFORE_ITS_LOG = re.compile(r"nginx: \[(\w+)\] (.*)")

_NGINX_LEVELS = {"debug": "debug", "info": "info", "notice": "info", "warn": "warning", "error": "error"}
"""Ours for nginx's; the others (crit, alert, emerg) are critical."""

_NO_HARM = re.compile(
    r"SSL_(do_handshake|read|write|shutdown)\(\) failed .*client: |open socket #\d+ left in connection"
    r"|an? (client request body|upstream response) is buffered to a temporary file "
)
"""Warnings and critical errors of nginx that mean no harm.

A client left or spoke another TLS, a connection was open at nginx's end, a body was large, or a reader slow.
"""

_LINES_LOST = re.compile(r'write\(\) to "" (failed|was incomplete)')
"""nginx's alert, once a minute at most, of access lines that found no room in its pipe."""

_QUERY_STRING = re.compile(r"\?[^\s\"']*")


def ours(line: str) -> dict[str, Any] | None:
    """Return the event in a line of our shape; None for any other."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    if "colour" in event:  # as versions before this one spelled it: an older release, or an older line of the file
        event["color"] = event.pop("colour")
    return event if all(name in event for name in FIRST) else None


def translate(line: str, *, service: str, color: str, pid: int, now: float) -> dict[str, Any]:
    """Return any other line as an event.

    Args:
        line: without its end.
        service: the program that wrote the line.
        color: its release slot.
        pid: its process, where the line doesn't say.
        now: seconds since 1970, where the line doesn't say.
    """
    text = line.strip()
    event = head(now, "warning", service, color, pid, f"{service}.stderr", text)  # no program logs so on purpose
    if found := _NGINX.fullmatch(text):
        year, month, day, clock, level, line_pid, connection, message = found.groups()
        # nginx runs with TZ=UTC, and tells whole seconds.
        event |= {"time": f"{year}-{month}-{day}T{clock}.000Z", "pid": int(line_pid), "logger": "nginx.error"}
        ours_level = "info" if _NO_HARM.search(message) else _NGINX_LEVELS.get(level, "critical")
        ours_level = "warning" if _LINES_LOST.match(message) else ours_level
        event |= {"level": ours_level, "message": without_query_strings(message)}
        if connection:
            event["connection"] = int(connection)  # access lines have it, too
    elif found := _NGINX_BEFORE_ITS_LOG.fullmatch(text):
        level, message = found.groups()
        event |= {"level": _NGINX_LEVELS.get(level, "critical"), "logger": "nginx.error", "message": message}
    return event


def without_query_strings(text: str) -> str:
    """Return a text whose URLs have no query strings: some callers put keys there."""
    return _QUERY_STRING.sub("?…", text)
