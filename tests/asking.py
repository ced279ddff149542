"""Asking the API for ranks, for tests."""

from __future__ import annotations

import json

from webapp.engine.runtimes.stub import stub_logit

QUERY = "how do bees find home"
TEXTS = ["milk keeps", "bees follow the sun", "the last train"]
BEST_FIRST = sorted(range(3), key=lambda index: -stub_logit(TEXTS[index]))


def post(client, path, body, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, data=data, **options)


def ask(client, path="/v1/rerank", headers=None, **fields):
    reply = post(client, path, {"query": QUERY, "documents": TEXTS, **fields}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json
