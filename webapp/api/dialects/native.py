"""Our own wire format, of documents with `content` and `metadata`.

POST /rerank {"query", "documents": [{"content", "metadata"} or str], "top_k", "raw_scores", "return_documents"}
-> {"query", "results": [{"index", "score", "content", "metadata", "truncated"?, "span"?}], "latency_ms", "model"}

Recognised by an object with `content`; a list of bare texts gets the documents family's reply, except in a batch.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from webapp.api import json_body
from webapp.api.dialects.base import Call, Dialect, ErrorFormat
from webapp.api.dialects.reply_parts import Figures, message_of, model, ranked, warnings
from webapp.api.dialects.request_parts import Options, to_request
from webapp.api.dialects.typos import IgnoredFields
from webapp.domain.errors import EmptyRequestError, InvalidRequestError, RerankError
from webapp.domain.types import RerankRequest, RerankResult

DEFAULT_TOP_K = 5

_NO_METADATA = Raw(b"{}")


class Document(msgspec.Struct, frozen=True, gc=False):
    """A candidate text, and the metadata that the reply repeats."""

    content: str
    metadata: Annotated[
        Raw | UnsetType, Meta(description="Comes back byte for byte.", extra_json_schema={"type": ["object", "null"]})
    ] = UNSET


class RerankBody(Options, kw_only=True, frozen=True):
    """Our own request. Unknown fields are ignored."""

    query: Annotated[str, Meta(description="The question; not blank.", examples=["how do bees find home"])]
    documents: Annotated[
        list[str | Document],
        Meta(
            description="The candidates: texts, or objects with content and metadata. At least one.",
            examples=[["Bees follow the sun.", {"content": "Milk keeps three days.", "metadata": {"id": 7}}]],
        ),
    ]
    top_k: Annotated[int, Meta(ge=0, description="How many results to return; 0 means all.")] | None = DEFAULT_TOP_K
    return_documents: Annotated[bool | None, Meta(description="Return content and metadata.")] = True


class Result(msgspec.Struct, omit_defaults=True):
    """One ranked document."""

    index: Annotated[int, Meta(description="Its place in the request.")]
    score: Annotated[float, Meta(description="0..1, higher is more relevant; the model's own number with raw_scores.")]
    content: str | UnsetType = UNSET
    metadata: Annotated[Raw | UnsetType, Meta(extra_json_schema={"type": "object"})] = UNSET
    truncated: Annotated[bool, Meta(description="There, and true, when the text was longer than the model reads.")] = (
        False
    )
    span: Annotated[
        tuple[int, int] | None, Meta(description="Characters of the window that counted, of a divided text.")
    ] = None


class RerankReply(msgspec.Struct, omit_defaults=True):
    """Our own answer."""

    query: str
    results: list[Result]
    latency_ms: float
    model: Annotated[str, Meta(description="The name asked for, else the first that it is served under.")]
    warnings: Annotated[tuple[str, ...], Meta(description="What of the request had no effect, and what was cut.")] = ()
    degraded: Annotated[
        bool, Meta(description="There, and true, when the model failed and words were compared instead.")
    ] = False
    scored_by: Annotated[str, Meta(description="The id of the model that scored, where `model` is another name.")] = ""


class ErrorDetail(Figures, omit_defaults=True):
    """What went wrong."""

    code: Annotated[str, Meta(description="Stable across releases.")]
    message: str
    retryable: Annotated[bool, Meta(description="Whether the same request may succeed later.")]
    field: Annotated[str | None, Meta(description="The place in the request that is wrong.")] = None


class ErrorReply(msgspec.Struct):
    """Body of every reply that is not a success."""

    error: ErrorDetail
    request_id: str


class BatchError(msgspec.Struct):
    """The entry of a batch's reply for a request that failed."""

    error: ErrorDetail


def parse(body: bytes) -> RerankRequest:
    """Read one request.

    Raises:
        InvalidRequestError: names the field and what was wrong.
    """
    return _to_request(json_body.decode(body, RerankBody))


def _claims(call: Call) -> bool:
    """Return whether `documents` hold an object with a string `content`, and none with `text` beside or instead.

    The usual body is decoded here, once; see `Call.decoded`.
    """
    if call.path == "/rerank/batch":
        return True
    if b'"content"' not in call.body or call.headers.get("X-Pinecone-Api-Version"):
        return False
    with contextlib.suppress(InvalidRequestError):
        body = json_body.decode(call.body, _Recognised)
        objects = [document for document in body.documents if isinstance(document, _RecognisedDocument)]
        if objects and body.rank_fields is None and all(document.text is None for document in objects):
            call.decoded = body
            return True
        return False
    return not call.has("rank_fields") and _looks_native(call.fields.get("documents", Raw()))


class _RecognisedDocument(Document, frozen=True, gc=False):
    text: Any = None


class _Recognised(RerankBody, kw_only=True, frozen=True):
    """A body with the fields that would make it another format; they are in no description."""

    documents: list[str | _RecognisedDocument]  # type: ignore[assignment] # narrower, and read only
    rank_fields: Any = None


class _Probe(msgspec.Struct, frozen=True, gc=False):
    content: Any = None
    text: Any = None


def _looks_native(documents: Raw) -> bool:
    try:
        probes = msgspec.json.decode(documents, type=list[str | _Probe])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    objects = [probe for probe in probes if isinstance(probe, _Probe)]
    return any(isinstance(probe.content, str) for probe in objects) and all(probe.text is None for probe in objects)


def parse_batch(body: bytes, max_requests: int = sys.maxsize) -> list[RerankRequest | RerankError]:
    """Read a list of requests; a bad one gives its own error in its place.

    Raises:
        InvalidRequestError: the body is not a list, or an empty one.
        PayloadTooLargeError: it is a list of more than `max_requests`.
    """
    items = json_body.decode(body, list[Raw])
    if not items:
        raise InvalidRequestError("the list is empty; send at least one request")
    if len(items) > max_requests:
        held = f"the list holds {len(items)} requests, this service takes {max_requests} in one call"
        raise json_body.too_large(held, max_requests)
    ignored = IgnoredFields()
    return [_parse_item(item, ignored) for item in items]


def _parse_item(item: Raw, ignored: IgnoredFields) -> RerankRequest | RerankError:
    try:
        request = parse(bytes(item))
        names = json_body.decode(bytes(item), dict[str, Raw])
        return replace(request, warnings=request.warnings + ignored.warn(names, RerankBody))
    except InvalidRequestError as error:
        return error


def _to_request(body: RerankBody) -> RerankRequest:
    if not body.query.strip():
        raise EmptyRequestError("must not be blank", field="query")
    documents = [entry if isinstance(entry, str) else entry.content for entry in body.documents]
    originals = [_metadata_of(entry, place) for place, entry in enumerate(body.documents)]
    echo = body.return_documents is not False
    return to_request(
        body,
        body.query,
        documents,
        originals=originals if echo else (),
        top_n=DEFAULT_TOP_K if body.top_k is None else body.top_k,
        return_documents=echo,
    )


def _metadata_of(entry: str | Document, place: int) -> Raw:
    """Return the metadata to echo: the object that was sent, or an empty one."""
    metadata = _NO_METADATA if isinstance(entry, str) or entry.metadata is UNSET else entry.metadata
    if memoryview(metadata)[0] not in b"{n":  # neither an object nor null
        try:
            json_body.decode(bytes(metadata), dict[str, Any])
        except InvalidRequestError as error:
            raise InvalidRequestError(error.message, field=f"documents[{place}].metadata") from error
    return _NO_METADATA if memoryview(metadata)[0] in b"n" else metadata


def dump_batch(outcomes: list[RerankResult | RerankError], call: Call) -> bytes:
    """Return the replies to a list of requests, JSON, in the same order."""
    replies = [
        BatchError(_error_detail(each)) if isinstance(each, RerankError) else _to_reply(each) for each in outcomes
    ]
    return json_body.encode(replies, long=call.large)


def dump_error(error: RerankError, _status: int, request_id: str) -> bytes:
    """Return the body of an error, JSON."""
    return msgspec.json.encode(ErrorReply(_error_detail(error), request_id))


def _error_detail(error: RerankError) -> ErrorDetail:
    """Return the part of an error that a client may see."""
    message = message_of(error)
    return ErrorDetail(error.code, message, error.retryable, error.field, **error.figures)


def _to_reply(result: RerankResult) -> RerankReply:
    request = result.request
    results: list[Result] = []
    for (index, score), truncated in zip(ranked(result), result.truncated, strict=True):
        entry = Result(index, score, truncated=truncated)
        if request.return_documents:
            entry.content = request.documents[index]
            entry.metadata = request.originals[index]
        results.append(entry)
    for entry, span in zip(results, result.spans, strict=bool(result.spans)):
        entry.span = span
    name = model(result)
    return RerankReply(
        request.query,
        results,
        round(result.latency_ms, 3),
        name,
        warnings(result),
        result.degraded,
        "" if name == result.model else result.model,
    )


DIALECT = Dialect(
    name="native",
    title="Ours: documents with `content`",
    claims=_claims,
    to_requests=lambda body, _: [_to_request(body)],
    to_reply=lambda results, _: _to_reply(results[0]),
    errors=ErrorFormat("native", dump_error, ErrorReply),
    body=RerankBody,
    strict=True,
    reply=RerankReply,
    example={
        "query": "how do bees find home",
        "documents": [
            {"content": "Milk keeps three days.", "metadata": {"id": 1}},
            {"content": "Bees follow the sun.", "metadata": {"id": 2}},
        ],
        "top_k": 2,
    },
)
