"""Tells those who watch of every reply, whatever route it came from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flask import Flask, Response, g, request

from webapp.api import request_context
from webapp.telemetry.observer import OnReply, Reply

log = logging.getLogger(__name__)

NO_ROUTE = "unmatched"
"""Paths that nobody serves are counted together: anyone can make up any number of them."""


def install(app: Flask, watchers: Sequence[OnReply]) -> None:
    """Run after every request; a watcher that fails reaches no reply."""
    failures = 0

    def tell(response: Response) -> Response:
        nonlocal failures
        dialect = g.get("dialect")
        reply = Reply(
            method=request.method,
            route=request.url_rule.rule if request.url_rule else NO_ROUTE,
            dialect=dialect.name if dialect else "none",
            status=response.status_code,
            seconds=request_context.elapsed_s(),
            request_id=request_context.request_id(),
            headers=request.headers,
            facts=g.get("access", {}),
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
