"""Tells those who watch of every reply, whatever route it came from."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from flask import Flask, Response, g, request

from webapp.telemetry.observer import OnReply, Reply

log = logging.getLogger(__name__)

NO_ROUTE = "unmatched"
"""Paths that nobody serves are counted together: anyone can make up any number of them."""


def install(app: Flask, watchers: Sequence[OnReply]) -> None:
    """Run after every request that is not synthetic; a watcher that fails reaches no reply."""
    failures = 0

    def tell(response: Response) -> Response:
        nonlocal failures
        # Each look through Flask's proxies costs a microsecond.
        call: Any = request
        call, known = call._get_current_object(), g._get_current_object().__dict__  # noqa: SLF001 - documented
        if known.get("synthetic"):
            return response
        dialect = known.get("dialect")
        reply = Reply(
            call.method,
            call.url_rule.rule if call.url_rule else NO_ROUTE,
            dialect.name if dialect else "none",
            response.status_code,
            time.monotonic() - known["began"],
            known["request_id"],
            call.headers,
            known.get("access", {}),
            known.get("error"),
            known.get("owner", ""),
            known.get("watched", False),
        )
        for watch in watchers:
            try:
                watch(reply)
            except Exception:
                failures += 1
                if failures == 1:  # the first tells what is wrong; thousands would only fill the log
                    log.exception("a watcher of replies failed; requests go on without it")
        return response

    if watchers:
        app.after_request(tell)
