"""Usage: followers URL NUMBER. Follows so many requests by their ids, half by streams of events and half by Socket.IO.

It follows first, then sends the request by a connection of its own, and prints a JSON list of what was heard last of
each request.
"""

from __future__ import annotations

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import requests
import socketio

PATIENCE_S = 60.0

AT_ONCE = 8


def rerank(url: str, name: str) -> None:
    """Send the request of this id."""
    body = {"query": "bees", "documents": ["a bee", "milk"]}
    requests.post(f"{url}/rerank", json=body, headers={"X-Request-Id": name}, timeout=PATIENCE_S).raise_for_status()


def by_stream(url: str, name: str) -> str:
    """Return the last status that a stream of events has."""
    with requests.get(f"{url}/progress/{name}", stream=True, timeout=PATIENCE_S) as reply:
        lines = reply.iter_lines(decode_unicode=True)
        next(lines)
        rerank(url, name)
        return (re.findall(r'"status":"(\w+)"', "\n".join(lines)) or ["nothing"])[-1]


def by_socket(url: str, name: str) -> str:
    """Return the last status by Socket.IO, which begins by polls: each may reach another replica."""
    with socketio.SimpleClient(request_timeout=PATIENCE_S) as client:
        client.connect(url, wait_timeout=PATIENCE_S)
        client.call("follow", name, timeout=PATIENCE_S)
        rerank(url, name)
        status = "running"
        while status == "running":
            status = client.receive(PATIENCE_S)[1]["status"]
        return status


def follow(url: str, number: int) -> str:
    """Return the last status of a request, or what went wrong."""
    way = by_socket if number % 2 else by_stream
    try:
        return way(url, f"followed-{os.getpid()}-{number}")
    except (OSError, socketio.exceptions.SocketIOError) as error:
        return f"{way.__name__}: {error!r}"


def main() -> None:
    """Follow all, some at once."""
    url, number = sys.argv[1], int(sys.argv[2])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        print(json.dumps(list(pool.map(lambda each: follow(url, each), range(number)))))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
