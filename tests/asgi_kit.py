"""Calls and requests on an asyncio loop, without a server."""

from __future__ import annotations

import asyncio
import json

PATIENCE_S = 60.0


def run(coroutine):
    """A whole asyncio program; ends within a minute."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def scope_of(method="POST", path="/rerank", headers=(), **more):
    """What an asyncio server knows of a request before its body."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "client": ("192.0.2.7", 5000),
        "server": ("127.0.0.1", 8000),
        "http_version": "1.1",
        **more,
    }


def receives(*parts):
    """ASGI's `receive` for a body in these parts; after them the caller waits for its reply."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1:] = [{**messages[-1], "more_body": False}]

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    return receive


def body_of(documents=("a", "b", "c"), query="q", **options):
    return json.dumps({"query": query, "documents": list(documents), **options}).encode()
