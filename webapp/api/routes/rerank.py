"""Every route that scores, in every dialect, and POST /rerank/batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from flask import Blueprint, Response

from webapp.api import auth, middleware, reservation, warning_headers
from webapp.api.body_reader import ParsedBody
from webapp.api.dialects import native, usage
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import BY_NAME, DIALECTS
from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult, Spent
from webapp.scheduling.admission import Arrival
from webapp.service.reranker import RerankService

PATHS = sorted({path for dialect in DIALECTS for path in dialect.paths})


def blueprint(service: RerankService) -> Blueprint:
    """The reranking routes."""
    views = Blueprint("rerank", __name__)

    def rerank(model: str | None = None) -> Response:
        with _arrived(service) as arrival:
            call = middleware.call(model, created_s=int(time.time()))
            asked: ParsedBody = middleware.read("rerank", call)
            dialect, requests = BY_NAME[asked.dialect], asked.requests
            middleware.speak(dialect)
            if asked.error:
                raise asked.error
            call.nested = asked.nested
            documents = sum(len(each.documents) for each in requests)
            middleware.note(dialect=dialect.name, documents=documents)
            auth.count_documents(documents)
            results = service.rerank_all(requests, *middleware.terms(), arrived=True)
            response = _reply(_written(service, call, lambda: dialect.dump(results, call)), results)
            reservation.leave(response, arrival)
            return response

    for path in PATHS:
        views.add_url_rule(path.replace("{model}", "<path:model>"), view_func=rerank, methods=["POST"])

    @views.post("/rerank/batch")
    def rerank_batch() -> Response:
        with _arrived(service) as arrival:
            call = middleware.call()
            items: list[RerankRequest | RerankError] = middleware.read("batch", call)
            good = [item for item in items if not isinstance(item, RerankError)]
            documents = sum(len(item.documents) for item in good)
            middleware.note(requests=len(items), documents=documents)
            auth.count_documents(documents)
            outcomes = iter(service.rerank_many(good, *middleware.terms(), arrived=True))
            merged = [item if isinstance(item, RerankError) else next(outcomes) for item in items]
            body = _written(service, call, lambda: native.dump_batch(merged, call))
            response = _reply(body, [each for each in merged if isinstance(each, RerankResult)])
            reservation.leave(response, arrival)
            return response

    return views


def _written(service: RerankService, call: Call, dump: Callable[[], bytes]) -> bytes:
    """Write a reply; elsewhere where it may repeat much."""
    body: bytes = service.offload(dump) if call.large else dump()
    return body


def _reply(body: bytes, results: Sequence[RerankResult]) -> Response:
    tokens, spent = sum([result.tokens for result in results]), _longest(results)
    middleware.note(
        tokens=tokens,
        cached=sum([result.cached for result in results]),
        queue_ms=round(spent.queue_ms, 3),
        tokenise_ms=round(spent.tokenise_ms, 3),
        score_ms=round(spent.score_ms, 3),
    )
    response = Response(body, headers=_timing(tokens, spent), content_type="application/json")
    warning_headers.add(response, (each for result in results for each in usage.warnings(result)))
    if any(result.degraded for result in results):
        response.headers["X-Rerank-Degraded"] = "lexical"
        middleware.note(degraded=True)
    return response


def _timing(tokens: int, spent: Spent) -> list[tuple[str, str]]:
    """Where the time went, in TEI's headers: whole milliseconds."""
    return [
        ("x-compute-tokens", str(tokens)),
        ("x-total-time", str(int(middleware.elapsed_s() * 1000))),
        ("x-queue-time", str(int(spent.queue_ms))),
        ("x-tokenization-time", str(int(spent.tokenise_ms))),
        ("x-inference-time", str(int(spent.score_ms))),
    ]


def _longest(results: Sequence[RerankResult]) -> Spent:
    """Of several parts, which are scored side by side."""
    if len(results) == 1:
        return results[0].spent
    return Spent(
        queue_ms=max((each.spent.queue_ms for each in results), default=0.0),
        tokenise_ms=max((each.spent.tokenise_ms for each in results), default=0.0),
        score_ms=max((each.spent.score_ms for each in results), default=0.0),
    )


@contextmanager
def _arrived(service: RerankService) -> Iterator[Arrival]:
    """Let the current request in, or refuse it before its body is read."""
    with ExitStack() as held:
        try:
            service.check_room()
            arrival = held.enter_context(reservation.arrive(service))
        except RerankError as error:
            service.report_refused(middleware.caller(), error)
            raise
        yield arrival
