"""Probes of load balancers and operators, under every name that other servers' clients use. None needs the engine."""

from __future__ import annotations

import datetime as dt

import msgspec
from flask import Blueprint, Response

from webapp.api.probes import LIVE, READY
from webapp.service.reranker import RerankService

READY_WAIT_S = 2.0
"""A worker that replaces another loads for less than that. Its callers wait, so a probe waits as well."""

ENDPOINTS = {f"GET {path}": summary for path, summary in {**LIVE, **READY}.items()}


def blueprint(service: RerankService) -> Blueprint:
    """Return the probes."""
    views = Blueprint("health", __name__)

    def live() -> Response:
        now = dt.datetime.now(dt.UTC)
        # Clients of the usual tutorial server read the last two.
        return json_reply(
            {"status": "ok", "unix": now.timestamp(), "model_loaded": service.loaded, "timestamp": now.isoformat()}
        )

    def ready() -> Response:
        service.wait_loaded(READY_WAIT_S)
        state = service.readiness
        return json_reply({"status": state}, 200 if state == "ready" else 503)

    for path, view in {**dict.fromkeys(LIVE, live), **dict.fromkeys(READY, ready)}.items():
        views.add_url_rule(path, endpoint=path.replace(".", "-"), view_func=view)
    return views


def json_reply(body: object, status: int = 200) -> Response:
    """Return a reply whose body is JSON."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")
