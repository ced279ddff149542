"""Hugging Face's text-embeddings-inference: /rerank with `texts` in, a bare list out; /predict with pairs and labels.

Source: TEI 1.9.3 router/src/http/{server,types}.rs. llama.cpp takes `texts` as well. `top_n` is not TEI's, but LiteLLM
and llama.cpp's clients send it. An empty query is fine, unless a text is empty too.

`inputs` of /predict is a text, a pair of texts, or a list of either in lists. Our models score pairs: a text alone is
scored as a query with an empty document.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api.dialects.base import Call, Dialect, ErrorFormat
from webapp.api.dialects.reply_parts import listed, message_of, scores_in_order
from webapp.api.dialects.request_parts import Count, Options, Text, query_of, texts_of, to_request
from webapp.domain import errors
from webapp.domain.types import RerankRequest, RerankResult

PATHS = ("/", "/invocations", "/predict", "/tokenize")
"""Paths that no other format has."""

LABEL = "LABEL_0"
"""A reranker has one label; this is what Hugging Face's models call it."""

_PAIR = 2

_ERROR_TYPES: dict[type[errors.RerankError], str] = {
    errors.EmptyRequestError: "Empty",
    errors.OverloadedError: "Overloaded",
    errors.UnavailableError: "Unhealthy",
    errors.EngineFailedError: "Backend",
}
"""`error_type` by the error; others have one by their status."""


class TeiBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `texts`."""

    query: Text
    texts: str | list[Text]
    return_text: Annotated[bool | None, Meta(description="Echo the texts. Default false.")] = None
    return_documents: bool | None = None
    top_n: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None


class Rank(msgspec.Struct, gc=False):
    """One text."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class TeiError(msgspec.Struct):
    """An error; `error` is a string here."""

    error: str
    error_type: str
    message: str
    detail: str
    code: int
    type: str
    request_id: str


def to_requests(body: TeiBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    texts = [body.texts] if isinstance(body.texts, str) else texts_of(body.texts, field="texts")
    if not texts:
        raise errors.EmptyRequestError("must hold at least one text", field="texts")
    query = query_of(body.query, blank=True)
    if not query and not all(texts):
        raise errors.EmptyRequestError("query and text can't both be empty", field="query")
    wanted = body.return_text if body.return_text is not None else body.return_documents
    return [to_request(body, query, texts, top_n=body.top_n, return_documents=wanted)]


def to_reply(results: list[RerankResult], _call: Call) -> list[Rank]:
    """Return a bare list, best first."""
    (result,) = results
    return listed(result, Rank, result.request.documents.__getitem__)


def dump_error(error: errors.RerankError, status: int, request_id: str) -> bytes:
    """Return the body of an error, with TEI's `error_type`."""
    message = message_of(error)
    by_status = {401: "Unauthorized", 429: "Overloaded", 500: "Backend"}
    kind = _ERROR_TYPES.get(type(error)) or by_status.get(status, "Validation")
    return msgspec.json.encode(TeiError(message, kind, message, message, status, kind, request_id))


ERRORS = ErrorFormat("tei", dump_error, TeiError)

DIALECT = Dialect(
    name="tei",
    title="text-embeddings-inference, llama.cpp's `texts`",
    claims=lambda call: not call.has("documents") and (call.has("texts") or (call.path in PATHS and not call.fields)),
    to_requests=to_requests,
    to_reply=to_reply,
    errors=ERRORS,
    body=TeiBody,
    reply=list[Rank],
    example={
        "query": "how do bees find home",
        "texts": ["Milk keeps three days.", "Bees follow the sun."],
        "return_text": True,
    },
)


class PredictBody(Options, kw_only=True, frozen=True):
    """Body of POST /predict."""

    inputs: Annotated[
        str | list[str | list[str]], Meta(description="A text, a pair, or a list of [text] and [text, text].")
    ]


class Prediction(msgspec.Struct, gc=False):
    """One label of a pair."""

    score: float
    label: str


def to_predict_requests(body: PredictBody, call: Call) -> list[RerankRequest]:
    """Return one request for each pair."""
    call.nested = isinstance(body.inputs, list) and any(isinstance(entry, list) for entry in body.inputs)
    if not body.inputs:
        raise errors.EmptyRequestError("must not be empty", field="inputs")
    requests = []
    for place, entry in enumerate(_pairs(body.inputs)):
        if not 1 <= len(entry) <= _PAIR:
            raise errors.InvalidRequestError("must be one text or two", field=f"inputs[{place}]")
        query, document = (*entry, "")[:_PAIR]
        if not query and not document:
            raise errors.EmptyRequestError("must not be empty", field=f"inputs[{place}]")
        requests.append(to_request(body, query, [document]))
    return requests


def _pairs(inputs: str | list[str | list[str]]) -> list[list[str]]:
    if isinstance(inputs, str):
        return [[inputs]]
    texts = [entry for entry in inputs if isinstance(entry, str)]
    if len(texts) == len(inputs):
        return [texts]
    return [[entry] if isinstance(entry, str) else entry for entry in inputs]


def to_predict_reply(results: list[RerankResult], call: Call) -> Any:
    """Return a list of labels; for a batch, a list of such lists."""
    labels = [[Prediction(score, LABEL)] for score in scores_in_order(results)]
    return labels if call.nested else labels[0]


PREDICT = Dialect(
    name="tei_predict",
    title="text-embeddings-inference /predict",
    claims=lambda call: call.path == "/predict",
    to_requests=to_predict_requests,
    to_reply=to_predict_reply,
    errors=ERRORS,
    body=PredictBody,
    reply=(list[Prediction], list[list[Prediction]]),
    paths=("/predict",),
    example={"inputs": [["how do bees find home", "Bees follow the sun."]]},
)
