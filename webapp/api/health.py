"""What operators and load balancers ask: alive, ready, what is this."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Blueprint, Response

from webapp import __version__
from webapp.service import RerankService

ENDPOINTS = {
    "POST /rerank": "rank documents for one query",
    "POST /rerank/batch": "rank several requests together",
    "GET /health": "200 while the process answers",
    "GET /ready": "200 once a real score was made, 503 while loading or draining",
    "GET /info": "model, precision, score scale, limits, versions",
    "GET /docs": "try the API in a browser",
    "GET /openapi.json": "the API as OpenAPI 3.1",
}

VERSIONS_OF = ("flask", "gunicorn", "gevent", "openvino", "tokenizers", "numpy")


def blueprint(service: RerankService, limits: Mapping[str, int]) -> Blueprint:
    """Probes and descriptions; none of them needs the engine."""
    views = Blueprint("health", __name__)
    versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}

    @views.get("/")
    def index() -> Response:
        return _json({"service": "reranking", "version": __version__, "endpoints": ENDPOINTS})

    @views.get("/health")
    def health() -> Response:
        return _json({"status": "ok"})

    @views.get("/ready")
    def ready() -> Response:
        return _json({"status": service.state}, 200 if service.state == "ready" else 503)

    @views.get("/info")
    def info() -> Response:
        model, cache = service.model, service.scoring.cache
        scale = {
            "sigmoid": "0..1, the sigmoid of the model's logit; raw_scores gives the logit",
            "cosine": "0..1, (1 + cosine) / 2; raw_scores gives the cosine",
        }[model.score_scale]
        return _json(
            {
                **msgspec.to_builtins(model),
                "score_scale": scale,
                "state": service.state,
                "ongoing_requests": service.ongoing,
                "cache": {"hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes} if cache else None,
                "limits": dict(limits),
                "version": __version__,
                "versions": versions,
            }
        )

    return views


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")
