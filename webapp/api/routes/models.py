"""What is served, for clients that ask before they call: /info, /models, /v1/models, /tokenize."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from flask import Blueprint, Response

from webapp import __version__
from webapp.api import auth, middleware, reservation, warning_headers
from webapp.api.dialects import tei_predict, tokenize
from webapp.api.routes.deployment import Deployment
from webapp.domain.types import ScoreScale
from webapp.service.reranker import RerankService

VERSIONS_OF = ("flask", "gunicorn", "gevent", "openvino", "tokenizers", "numpy")

SCALES: dict[ScoreScale, str] = {
    "sigmoid": "0..1, the sigmoid of the model's logit; raw_scores gives the logit",
    "cosine": "0..1, (1 + cosine) / 2; raw_scores gives the cosine",
    "dot": "0..1, (1 + dot / (1 + |dot|)) / 2; raw_scores gives the dot product",
    "euclidean": "0..1, 1 / (1 + distance); raw_scores gives the Euclidean distance, negative",
    "manhattan": "0..1, 1 / (1 + distance); raw_scores gives the Manhattan distance, negative",
}


def blueprint(
    service: RerankService, limits: Mapping[str, int], deployment: Deployment, comparison: Callable[[], str]
) -> Blueprint:
    """Descriptions; none of them needs the engine but its tokenizer."""
    views = Blueprint("models", __name__)
    versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
    created_s = int(time.time())

    def models() -> Response:
        return _json({"object": "list", "data": [describe(service, name, created_s) for name in service.names.listed]})

    for path in ("/models", "/v1/models", "/infinity/models"):
        views.add_url_rule(path, view_func=models)

    @views.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        service.check_model(model)
        return _json(describe(service, model, created_s))

    @views.get("/info")
    def info() -> Response:
        cache = service.scoring.cache
        return _json(
            {
                **msgspec.to_builtins(service.model),
                **_as_tei(service),
                "score_scale": SCALES[service.model.score_scale],
                "engine_comparison": comparison() or None,
                "state": service.state,
                "deployment": {"color": deployment.color, "release": deployment.release},
                "ongoing_requests": service.ongoing,
                "cache": {"hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes} if cache else None,
                "limits": dict(limits),
                "version": __version__,
                "versions": versions,
            }
        )

    @views.get("/meta")
    def meta() -> Response:
        return _json({"model": service.names.first, "version": __version__})

    @views.post("/tokenize")
    def tokens() -> Response:
        with reservation.arrive(service) as arrival:
            asked: tokenize.TokenizeBody
            asked, ignored = middleware.read("tokenize", middleware.call())
            service.check_model(asked.model)
            auth.count_documents(len(asked.texts))

            def answer() -> tuple[int, bytes]:
                found = (service.texts.tokenize(text, special=asked.special) for text in asked.texts)
                return tokenize.dump(asked, found, service.model.max_length_tokens)

            count, body = service.offload(answer)
            middleware.note(tokens=count)
            response = Response(body, content_type="application/json")
            warning_headers.add(response, ignored)
            reservation.leave(response, arrival)
            return response

    return views


def describe(service: RerankService, name: str, created_s: int) -> dict[str, Any]:
    """One model, with what OpenAI's, vLLM's, Infinity's, NIM's and Xinference's clients look for."""
    queue = service.ongoing
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "reranking",
        "root": service.model.model,
        "parent": None,
        "permission": [],
        "max_model_len": service.model.max_length_tokens,
        "model_name": service.model.model,
        "model_type": "rerank",
        "type": "rerank",
        "backend": service.model.engine,
        "capabilities": ["rerank"],
        "stats": {
            "queue_fraction": queue / service.max_ongoing_requests,
            "queue_absolute": queue,
            "results_pending": queue,
            "batch_size": service.max_documents,
        },
    }


def _as_tei(service: RerankService) -> dict[str, Any]:
    """The fields of TEI's /info; Dify and Continue look for a `model_type` of "reranker"."""
    model = service.model
    label = tei_predict.LABEL
    return {
        "model_id": model.model,
        "model_sha": model.revision,
        "model_dtype": model.precision,
        "served_model_name": service.names.first,
        "model_type": {"reranker": {"id2label": {"0": label}, "label2id": {label: 0}}},
        "max_concurrent_requests": service.max_ongoing_requests,
        "max_input_length": model.max_length_tokens,
        "max_batch_tokens": model.max_length_tokens * service.max_documents,
        "max_batch_requests": None,
        "max_client_batch_size": service.max_documents,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "sha": None,
        "docker_label": None,
    }


def _json(body: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
