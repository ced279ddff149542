"""Every route that scores, in every dialect, and POST /rerank/batch."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from webapp.api import request_context
from webapp.api.dialects import native
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import DIALECTS, dialect_of
from webapp.errors import RerankError
from webapp.service import RerankService

PATHS = sorted({path for dialect in DIALECTS for path in dialect.paths})


def blueprint(service: RerankService) -> Blueprint:
    """The reranking routes."""
    views = Blueprint("rerank", __name__)

    def rerank(model: str | None = None) -> Response:
        call = Call(
            path=request.path.rstrip("/") or "/",
            headers=request.headers,
            body=request.get_data(cache=False),
            request_id=request_context.request_id(),
            created_s=int(time.time()),
            model_url=model,
        )
        dialect = dialect_of(call)
        request_context.speak(dialect)
        requests = dialect.parse(call)
        request_context.note(dialect=dialect.name, documents=sum(len(each.documents) for each in requests))
        results = service.rerank_all(requests, request_context.deadline(), request_context.caller())
        request_context.note(
            tokens=sum(result.tokens for result in results), cached=sum(result.cached for result in results)
        )
        return Response(dialect.dump(results, call), content_type="application/json")

    for path in PATHS:
        views.add_url_rule(path.replace("{model}", "<path:model>"), view_func=rerank, methods=["POST"])

    @views.post("/rerank/batch")
    def rerank_batch() -> Response:
        items = native.parse_batch(request.get_data(cache=False))
        good = [item for item in items if not isinstance(item, RerankError)]
        request_context.note(requests=len(items), documents=sum(len(item.documents) for item in good))
        outcomes = iter(service.rerank_many(good, request_context.deadline(), request_context.caller()))
        merged = [item if isinstance(item, RerankError) else next(outcomes) for item in items]
        return Response(native.dump_batch(merged), content_type="application/json")

    return views
