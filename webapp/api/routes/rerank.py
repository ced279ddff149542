"""Every route that takes a body: scores in every dialect, POST /rerank/batch, POST /tokenize."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from functools import partial
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response

from webapp.api import auth
from webapp.api.body_reader import BodyKind, ParsedBody
from webapp.api.current_request import CurrentRequest, current
from webapp.api.dialects import native, reply_parts, tokenize
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import BY_NAME, DIALECTS
from webapp.domain.errors import RerankError
from webapp.domain.types import RerankResult, Spent
from webapp.service.reranker import RerankService

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
"""Summaries of the paths that score; another path of a dialect is summed up by that dialect's title."""

PATHS = {path: dialect.title for dialect in DIALECTS for path in dialect.paths}

ENDPOINTS = {
    **{f"POST {path}": RANK.get(path) or PATHS[path] for path in (*RANK, *PATHS)},
    "POST /tokenize": "tokens of texts, as TEI, vLLM and llama.cpp have them",
}

WARNING_HEADER = "X-Rerank-Warning"
"""Warnings, for the formats that have no place for them; the others carry them in the body as well."""

MOST_WARNINGS = 8
"""Warnings of one reply."""

MOST_WARNING_CHARS = 200
"""nginx takes all headers of a reply together only up to 4 KB."""

_UNQUOTED = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"
_BROKEN_ESCAPE = re.compile("%.?$")


def blueprint(service: RerankService) -> Blueprint:
    """Return the routes that score and tokenise."""
    views = Blueprint("rerank", __name__)

    def score(model: str | None = None, *, kind: BodyKind = "rerank") -> Response:
        with _admitted(service) as state:
            call = state.read_call(model, created_s=int(time.time()))
            body: ParsedBody = state.parse(kind, call)
            state.known_dialect = dialect = BY_NAME[body.dialect]
            if body.error:
                raise body.error
            call.nested = body.nested
            good = body.good
            documents = sum(len(each.documents) for each in good)
            batch = kind == "batch"
            state.facts |= {"requests": len(body.requests)} if batch else {"dialect": dialect.name}
            state.facts["documents"] = documents
            auth.count("documents", documents)
            rerank = service.rerank_many if batch else service.rerank_all
            outcomes = iter(rerank(good, state.options()))
            merged = [each if isinstance(each, RerankError) else next(outcomes) for each in body.requests]
            results = [each for each in merged if isinstance(each, RerankResult)]
            dump: Callable[[list[Any], Call], bytes] = native.dump_batch if batch else dialect.dump
            # On another thread if it may repeat much.
            reply = service.offload(lambda: dump(merged, call)) if call.large else dump(merged, call)
            return _reply(state, reply, results)

    for path in PATHS:
        views.add_url_rule(path.replace("{model}", "<path:model>"), view_func=score, methods=["POST"])
    views.add_url_rule("/rerank/batch", endpoint="batch", view_func=partial(score, kind="batch"), methods=["POST"])

    @views.post("/tokenize")
    def tokens() -> Response:
        state = current()
        with state.admitted(service):
            body: tokenize.TokenizeBody
            body, warnings = state.parse("tokenize", state.read_call())
            service.check_model(body.model)
            auth.count("documents", len(body.texts))

            def dump() -> tuple[int, bytes]:
                found = (service.texts.tokenize(text, special=body.special) for text in body.texts)
                return tokenize.dump(body, found, service.model.max_length_tokens)

            count, reply = service.offload(dump)
            state.facts["tokens"] = count
            response = Response(reply, content_type="application/json")
            add_warnings(response, warnings)
            return state.hold_until_sent(response)

    return views


@contextmanager
def _admitted(service: RerankService) -> Iterator[CurrentRequest]:
    """Admit the current request, or refuse it before its body is read, and tell the observers."""
    state = current()
    with ExitStack() as held:
        try:
            service.admission.check()
            held.enter_context(state.admitted(service))
        except RerankError as error:
            service.report_refused(state.caller(), error)
            raise
        yield state


def _reply(state: CurrentRequest, body: bytes, results: Sequence[RerankResult]) -> Response:
    tokens, spent = sum([result.tokens for result in results]), _longest(results)
    state.facts |= {
        "tokens": tokens,
        "cached": sum([result.cached for result in results]),
        "queue_ms": round(spent.queue_ms, 3),
        "tokenise_ms": round(spent.tokenise_ms, 3),
        "score_ms": round(spent.score_ms, 3),
    }
    timing = [  # TEI's headers: whole milliseconds
        ("x-compute-tokens", str(tokens)),
        ("x-total-time", str(int(state.elapsed_s * 1000))),
        ("x-queue-time", str(int(spent.queue_ms))),
        ("x-tokenization-time", str(int(spent.tokenise_ms))),
        ("x-inference-time", str(int(spent.score_ms))),
    ]
    response = Response(body, headers=timing, content_type="application/json")
    add_warnings(response, (each for result in results for each in reply_parts.warnings(result)))
    if any(result.degraded for result in results):
        response.headers["X-Rerank-Degraded"] = "lexical"
        state.facts["degraded"] = True
    return state.hold_until_sent(response)


def add_warnings(response: Response, warnings: Iterable[str]) -> None:
    """Add a header line for each warning; characters that are no printable ASCII are percent-encoded."""
    for warning in list(dict.fromkeys(warnings))[:MOST_WARNINGS]:
        value = quote(warning[:MOST_WARNING_CHARS], safe=_UNQUOTED)[:MOST_WARNING_CHARS]
        response.headers.add(WARNING_HEADER, _BROKEN_ESCAPE.sub("", value))


def _longest(results: Sequence[RerankResult]) -> Spent:
    """Return the longest times of several parts, which are scored side by side."""
    if len(results) == 1:
        return results[0].spent
    return Spent(*map(max, zip(*(astuple(each.spent) for each in results), strict=True)))
