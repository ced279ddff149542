"""What each client goes through. Runs in the clients' own environment: nothing of ours is imported here.

A client is a function (url, key, query, documents, echo) -> [(index, score, document or None)], registered by `client`.
Every outcome becomes one JSON line on standard output; the tests judge.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

CLIENTS: dict[str, Callable[..., Any]] = {}


def client(name: str):
    def register(function):
        CLIENTS[name] = function
        return function

    return register


def run(argv: list[str]) -> None:
    """Arguments: one JSON object with url, full_url, key, query, documents, names."""
    given = json.loads(argv[1])
    names = given["names"] or list(CLIENTS)
    query, documents, key = given["query"], given["documents"], given["key"]
    for name in names:
        ask = partial(CLIENTS[name], given["url"], documents=documents)
        report(name, "plain", partial(ask, key, query, echo=False))
        report(name, "echo", partial(ask, key, query, echo=True))
        report(name, "bad", partial(CLIENTS[name], given["url"], key, "", ["", "x"], echo=False))
        report(name, "unauthorized", partial(ask, "wrong", query, echo=False))
        report(name, "full", partial(CLIENTS[name], given["full_url"], key, query, documents, echo=False))


def report(name: str, situation: str, call: Callable[[], Any]) -> None:
    began = time.monotonic()
    line: dict[str, Any] = {"client": name, "situation": situation}
    try:
        line["results"] = [[int(index), float(score), document] for index, score, document in call()]
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what we came for
        line["error"] = f"{type(error).__module__}.{type(error).__name__}"
        line["message"] = f"{error} {getattr(error, 'body', '')} {getattr(error, '__cause__', '') or ''}"
        line["trace"] = traceback.format_exc()[-1500:]
    line["seconds"] = round(time.monotonic() - began, 2)
    sys.stdout.write("@" + json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    run(sys.argv)
