"""POST /rerank and POST /rerank/batch."""

from __future__ import annotations

from flask import Blueprint, Response, request

from webapp.api import request_context
from webapp.api.dialects import native
from webapp.errors import RerankError
from webapp.service import RerankService


def blueprint(service: RerankService) -> Blueprint:
    """The reranking routes."""
    views = Blueprint("rerank", __name__)

    @views.post("/rerank")
    def rerank() -> Response:
        parsed = native.parse(request.get_data(cache=False))
        request_context.note(documents=len(parsed.documents))
        result = service.rerank(parsed, request_context.deadline(), request_context.caller("native"))
        request_context.note(tokens=result.tokens, cached=result.cached)
        return Response(native.dump(result), content_type="application/json")

    @views.post("/rerank/batch")
    def rerank_batch() -> Response:
        items = native.parse_batch(request.get_data(cache=False))
        good = [item for item in items if not isinstance(item, RerankError)]
        request_context.note(requests=len(items), documents=sum(len(item.documents) for item in good))
        outcomes = iter(service.rerank_many(good, request_context.deadline(), request_context.caller("native")))
        merged = [item if isinstance(item, RerankError) else next(outcomes) for item in items]
        return Response(native.dump_batch(merged), content_type="application/json")

    return views
