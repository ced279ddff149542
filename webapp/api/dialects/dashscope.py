"""Alibaba's DashScope: texts in `input` and options in `parameters`, or all in one object at the newer path.

Sources: dashscope 2.0.2 `rerank/text_rerank.py`, `common/utils.py` (errors); llama-index-postprocessor-dashscope-rerank
0.6.0; alibabacloud.com/help/en/model-studio/text-rerank-api; for the newer path
docs.qwencloud.com/api-reference/rerank/openai-rerank and litellm 1.106.2 `llms/dashscope/rerank`; for codes of errors
help.aliyun.com/zh/dashscope/return-status-code-description. Both are recognised by their paths.

dashscope puts every further argument of a call into `parameters`, so all options are taken there. They are taken beside
`input`, too; what `parameters` says goes before. The examples of qwen3-vl-rerank have images and videos among the
documents: those are refused, because their addresses would be scored as texts.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api.dialects.base import Call, Dialect, ErrorFormat
from webapp.api.dialects.reply_parts import as_object, listed, message_of, model
from webapp.api.dialects.request_parts import (
    SYNONYMS,
    Count,
    Options,
    Text,
    as_list,
    instruction_of,
    ranking_request,
    truncation_of,
)
from webapp.api.dialects.typos import IgnoredFields
from webapp.domain.errors import InvalidRequestError, RateLimitedError, RerankError
from webapp.domain.types import RerankRequest, RerankResult

PATH = "/api/v1/services/rerank/text-rerank/text-rerank"

COMPATIBLE_PATH = "/compatible-api/v1/reranks"

_TEXTS = frozenset({"text", "content"})
_MEDIA = frozenset({"image", "images", "multi_images", "video", "videos"})

_CODES = {
    401: "InvalidApiKey",
    404: "ModelNotFound",
    413: "BadRequest.TooLarge",
    429: "Throttling",
    503: "ServiceUnavailable",
}


class DashScopeParameters(Options, kw_only=True, frozen=True):
    """Options of a request."""

    top_n: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None
    return_documents: Annotated[bool | None, Meta(description="Echo the documents. Default false.")] = None


class DashScopeInput(msgspec.Struct, kw_only=True, frozen=True):
    """What is ranked."""

    query: Text
    documents: Annotated[Text | list[Text], Meta(description="Texts, or objects with `text`.")]


class DashScopeBody(DashScopeParameters, kw_only=True, frozen=True):
    """A request with `input`. Options beside it count where `parameters` has none of that name."""

    input: DashScopeInput
    parameters: DashScopeParameters | None = None


class DashScopeCompatibleBody(DashScopeParameters, kw_only=True, frozen=True):
    """A request at the newer path."""

    query: Text
    documents: Annotated[Text | list[Text], Meta(description="Texts, or objects with `text`.")]


class DashScopeRanked(msgspec.Struct, gc=False):
    """One document."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class DashScopeOutput(msgspec.Struct):
    """What was ranked, best first."""

    results: list[DashScopeRanked]


class DashScopeUsage(msgspec.Struct, gc=False):
    """What a request took."""

    total_tokens: int


class DashScopeReply(msgspec.Struct):
    """Answer to a request with `input`."""

    output: DashScopeOutput
    usage: DashScopeUsage
    request_id: str


class DashScopeCompatibleReply(msgspec.Struct):
    """Answer at the newer path."""

    id: str
    model: str
    results: list[DashScopeRanked]
    usage: DashScopeUsage
    object: str = "list"


class DashScopeError(msgspec.Struct):
    """An error."""

    code: Annotated[str, Meta(description="DashScope's own code for it.")]
    message: str
    request_id: str


def to_requests(body: DashScopeBody, call: Call) -> list[RerankRequest]:
    """Return one request."""
    options: DashScopeParameters = body
    if body.parameters is not None:
        fields = msgspec.structs.asdict(body.parameters) | {"model": None}
        given = {name: value for name, value in fields.items() if value is not None}
        given["instruction"] = instruction_of(body.parameters) or instruction_of(body)
        truncation_of(body)  # what is wrong there is said, even if `parameters` go before
        settled = [name for names in SYNONYMS if not names.isdisjoint(given) for name in names]
        options = msgspec.structs.replace(body, **{**dict.fromkeys(settled), **given})
    request = _request(options, body.input.query, body.input.documents, at="input.")
    return [replace(request, warnings=request.warnings + _ignored(call))]


def to_compatible_requests(body: DashScopeCompatibleBody, call: Call) -> list[RerankRequest]:
    """Return one request."""
    request = _request(body, body.query, body.documents)
    lost = sorted({"input", "parameters"} & call.fields.keys())
    warnings = [f"{name!r} was ignored: at this path all fields stand side by side" for name in lost]
    return [replace(request, warnings=(*request.warnings, *warnings))]


def _request(options: DashScopeParameters, query: Text, documents: Text | list[Text], *, at: str = "") -> RerankRequest:
    """Return the request for texts that stand at a place in the body."""
    _check_text(query, f"{at}query")
    for place, document in enumerate(as_list(documents, f"{at}documents")):
        _check_text(document, f"{at}documents[{place}]")
    return ranking_request(
        options,
        query,
        documents,
        field=f"{at}documents",
        top_n=options.top_n,
        echo=bool(options.return_documents),
        add_text=True,
    )


def _check_text(value: Text, field: str) -> None:
    """Refuse an image or a video, which may stand beside a text that is empty or none."""
    if isinstance(value, dict) and not _MEDIA.isdisjoint(value):
        given = [msgspec.json.decode(value[name]) for name in _TEXTS & value.keys()]
        if not any(isinstance(each, str) and each.strip() for each in given):
            raise InvalidRequestError("holds no text; this model reads text only", field=field)


def _ignored(call: Call) -> tuple[str, ...]:
    """Return a warning for each nested or misplaced field that has no effect, and is or resembles a known one."""
    parameters, texts = _names(call, "parameters"), frozenset(DashScopeInput.__struct_fields__)
    misplaced = IgnoredFields().meant(_names(call, "input") - texts, frozenset(DashScopeParameters.__struct_fields__))
    return (
        *(
            f"{name!r} in input was ignored: {meant!r} belongs {'beside it' if meant == 'model' else 'in parameters'}"
            for name, meant in misplaced
        ),
        *(f"{name!r} was ignored: it belongs in input" for name in sorted(texts & call.fields.keys())),
        *(["'model' in parameters was ignored: it belongs beside them"] if "model" in parameters else []),
        *IgnoredFields().warn(parameters, DashScopeParameters),
    )


def _names(call: Call, field: str) -> AbstractSet[str]:
    """Return the names in an object of the body."""
    value = call.fields.get(field)
    return set() if value is None else msgspec.json.decode(value, type=dict[str, msgspec.Raw]).keys()


def to_reply(results: list[RerankResult], call: Call) -> DashScopeReply:
    """Return the documents in `output`, best first."""
    (result,) = results
    return DashScopeReply(DashScopeOutput(_entries(result)), DashScopeUsage(result.tokens), call.request_id)


def to_compatible_reply(results: list[RerankResult], call: Call) -> DashScopeCompatibleReply:
    """Return the documents in `results`, best first."""
    (result,) = results
    return DashScopeCompatibleReply(call.request_id, model(result), _entries(result), DashScopeUsage(result.tokens))


def _entries(result: RerankResult) -> list[DashScopeRanked]:
    return listed(result, DashScopeRanked, lambda index: as_object(result.request.originals[index]))


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """Return the body of an error, with DashScope's own code."""
    code = _CODES.get(status, "InvalidParameter" if status < 500 else "InternalError")  # noqa: PLR2004
    if isinstance(error, RateLimitedError):
        code = "Throttling.RateQuota"
    return msgspec.json.encode(DashScopeError(code, message_of(error), request_id))


ERRORS = ErrorFormat("documents", dump_error, DashScopeError)

_TEXTS_TO_RANK = {
    "query": "how do bees find home",
    "documents": ["Milk keeps three days.", "Bees follow the sun."],
}

DIALECT = Dialect(
    name="dashscope",
    title="DashScope",
    claims=lambda call: call.path == PATH,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=ERRORS,
    body=DashScopeBody,
    reply=DashScopeReply,
    paths=(PATH,),
    example={"model": "any", "input": _TEXTS_TO_RANK, "parameters": {"top_n": 2, "return_documents": True}},
)

COMPATIBLE = Dialect(
    name="dashscope_compatible",
    title="DashScope, for OpenAI's clients",
    claims=lambda call: call.path == COMPATIBLE_PATH,
    to_requests=to_compatible_requests,
    to_reply=to_compatible_reply,
    errors=ERRORS,
    body=DashScopeCompatibleBody,
    reply=DashScopeCompatibleReply,
    paths=(COMPATIBLE_PATH,),
    example={"model": "any", **_TEXTS_TO_RANK, "top_n": 2},
)
