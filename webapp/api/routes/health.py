"""What operators and load balancers ask: alive, ready, what is this. Under every name that clients' servers use."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from flask import Blueprint, Response

from webapp import __version__
from webapp.api.dialects.registry import DIALECTS
from webapp.api.probes import LIVE, READY
from webapp.service.reranker import RerankService

READY_WAIT_S = 2.0
"""A worker that replaces another loads for less than that. Its callers wait, so who asks for them waits as well."""

RANK = {
    "/rerank": "ours, and every other format",
    "/rerank/batch": "several requests of ours together",
    "/v1/rerank": "Cohere v1, Jina, Voyage, vLLM, Xinference, LocalAI",
    "/v2/rerank": "Cohere v2, vLLM",
    "/v1/reranking": "Mixedbread, llama.cpp",
    "/reranking": "llama.cpp",
    "/infinity/rerank": "Infinity for LiteLLM: documents are strings",
    "/api/rerank": "Ollama",
    "/": "text-embeddings-inference",
    "/invocations": "text-embeddings-inference, SageMaker",
    "/v1/ranking": "NVIDIA NIM",
    "/v1/retrieval/{model}/reranking": "NVIDIA NIM, hosted",
    "/score": "vLLM: scores of pairs",
    "/v1/score": "as /score",
    "/predict": "text-embeddings-inference: labels of pairs",
}

ENDPOINTS = {
    **{f"POST {path}": RANK.get(path, "") for path in (*RANK, *(path for each in DIALECTS for path in each.paths))},
    "POST /tokenize": "tokens of texts, as TEI, vLLM and llama.cpp have them",
    **{f"GET {path}": summary for path, summary in {**LIVE, **READY}.items()},
    "GET /info": "model, precision, score scale, limits, versions",
    "GET /models": "the model that is served",
    "GET /v1/models": "as /models",
    "GET /v1/models/{model}": "one model; any name is taken unless RERANK_STRICT_MODEL is set",
    "GET /infinity/models": "as /models",
    "GET /meta": "for Weaviate",
    "GET /version": "of this service",
    "GET /deployment_color": "which release answers: blue or green, and its number",
    "GET /load": "requests at work",
    "GET /v1/cluster/auth": "for Xinference's client: whether a key is wanted",
    "GET /docs": "try the API in a browser",
    "GET /openapi.json": "the API as OpenAPI 3.1",
}


def blueprint(service: RerankService, *, guarded: bool) -> Blueprint:
    """Probes; none of them needs the engine. Xinference's client sends its key only where it hears of `guarded`."""
    views = Blueprint("health", __name__)

    def live() -> Response:
        now = dt.datetime.now(dt.UTC)
        # The last two are what clients of the usual tutorial server read.
        told = {"status": "ok", "unix": now.timestamp(), "model_loaded": service.loaded, "timestamp": now.isoformat()}
        return _json(told)

    def ready() -> Response:
        service.wait_loaded(READY_WAIT_S)
        state = service.left_as or service.state
        return _json({"status": state}, 200 if state == "ready" else 503)

    answers: dict[str, Callable[[], Response]] = {
        **dict.fromkeys(LIVE, live),
        **dict.fromkeys(READY, ready),
        "/version": lambda: _json({"version": __version__}),
        "/load": lambda: _json({"server_load": service.ongoing}),
        "/v1/cluster/auth": lambda: _json({"auth": guarded}),
    }
    for path, answer in answers.items():
        views.add_url_rule(path, endpoint=path.replace(".", "-"), view_func=answer)
    return views


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")
