"""What is served, for clients that look before they call: model, limits, versions, release. None needs the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from flask import Blueprint, Response

from webapp import __version__
from webapp.api.dialects import tei
from webapp.api.routes.health import json_reply
from webapp.config.packages import versions_of
from webapp.domain.types import ModelInfo, ScoreScale
from webapp.service.reranker import RerankService

ENDPOINTS = {
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
}

COLOR_HEADER = "X-Deployment-Color"

VERSIONS_OF = ("flask", "gunicorn", "gevent", "openvino", "tokenizers", "numpy")

SCALES: dict[ScoreScale, str] = {
    "sigmoid": "0..1, the sigmoid of the model's logit; raw_scores gives the logit",
    "cosine": "0..1, (1 + cosine) / 2; raw_scores gives the cosine",
    "dot": "0..1, (1 + dot / (1 + |dot|)) / 2; raw_scores gives the dot product",
    "euclidean": "0..1, 1 / (1 + distance); raw_scores gives the Euclidean distance, negative",
    "manhattan": "0..1, 1 / (1 + distance); raw_scores gives the Manhattan distance, negative",
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A release as callers see it."""

    color: str = ""
    """Empty where there are no colors."""
    release: int = 0


def blueprint(
    service: RerankService,
    limits: Mapping[str, int],
    deployment: Deployment,
    comparison: Callable[[], str],
    *,
    guarded: bool,
) -> Blueprint:
    """Return the descriptions.

    Args:
        service: what is described.
        limits: of requests, by name.
        deployment: its color is a header of every reply.
        comparison: returns what is known of other engines.
        guarded: whether a key is wanted; Xinference's client sends its key only then.
    """
    views = Blueprint("info", __name__)
    versions = versions_of(VERSIONS_OF)
    created_s = int(time.time())

    def info() -> object:
        cache = service.scoring.cache
        return {
            **msgspec.to_builtins(service.model),
            **_as_tei(service),
            "score_scale": _scale(service.model),
            "recipe": _recipe(service.model),
            "scores_fingerprint": service.scores_fingerprint or None,
            "engine_comparison": comparison() or None,
            "state": service.state,
            "deployment": asdict(deployment),
            "ongoing_requests": service.ongoing,
            "cache": {"hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes} if cache else None,
            "limits": dict(limits),
            "version": __version__,
            "versions": versions,
        }

    def models() -> object:
        return {"object": "list", "data": [describe(service, name, created_s) for name in service.names.listed]}

    def model(model: str) -> object:
        service.check_model(model)
        return describe(service, model, created_s)

    replies: dict[str, Callable[..., object]] = {
        "/info": info,
        **dict.fromkeys(("/models", "/v1/models", "/infinity/models"), models),
        "/v1/models/<path:model>": model,
        "/meta": lambda: {"model": service.names.first, "version": __version__},
        "/version": lambda: {"version": __version__},
        "/deployment_color": lambda: asdict(deployment),
        "/load": lambda: {"server_load": service.ongoing},
        "/v1/cluster/auth": lambda: {"auth": guarded},
    }
    for path, reply in replies.items():
        views.add_url_rule(path, endpoint=path, view_func=lambda reply=reply, **named: json_reply(reply(**named)))

    if deployment.color:

        @views.after_app_request
        def add_color(response: Response) -> Response:
            response.headers[COLOR_HEADER] = deployment.color
            return response

    return views


def describe(service: RerankService, name: str, created_s: int) -> dict[str, Any]:
    """Return one model, with the fields that OpenAI's, vLLM's, Infinity's, NIM's and Xinference's clients look for."""
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


def _scale(model: ModelInfo) -> str:
    """Return in words how a raw score becomes a score."""
    words = SCALES[model.score_scale]
    return words if model.temperature == 1 else words.replace("logit;", f"logit / {model.temperature:g};")


def _recipe(model: ModelInfo) -> dict[str, str] | None:
    """Return how a decoder is served, and what its maker says of its licence."""
    if model.recipe is None:
        return None
    described = asdict(model.recipe)
    if licence := model.recipe.licence:
        described["licence"] = f"{licence} (as its maker states; check it)"
    return described


def _as_tei(service: RerankService) -> dict[str, Any]:
    """Return the fields of TEI's /info; Dify and Continue look for a `model_type` of "reranker"."""
    model = service.model
    return {
        "model_id": model.model,
        "model_sha": model.revision,
        "model_dtype": model.precision,
        "served_model_name": service.names.first,
        "model_type": {"reranker": {"id2label": {"0": tei.LABEL}, "label2id": {tei.LABEL: 0}}},
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
