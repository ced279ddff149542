"""The API as an OpenAPI 3.1 document, made from the types that check requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from webapp import __version__
from webapp.api.auth import is_open
from webapp.api.dialects import documents, native, tei, tokenize
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import DIALECTS, UNKNOWN, dialect_of
from webapp.api.probes import LIVE, READY
from webapp.api.routes.rerank import PATHS, RANK, WARNING_HEADER

_FAILURES = {
    400: "The request is malformed; the error names the field.",
    401: "No valid API key, where keys are asked for.",
    404: "Another model is served, and RERANK_STRICT_MODEL is set.",
    413: "The body is over the limit.",
    415: "The body is compressed in a way that is not accepted; the header Accept-Encoding has those that are.",
    422: "The request is malformed (TEI).",
    424: "The model could not score the request (TEI).",
    429: "Full, the time was over, or more than a minute allows: try again after Retry-After seconds.",
    500: "The model could not score the request, or a fault of ours.",
    503: "Starting or broken, for native callers also full: try again after Retry-After seconds.",
    504: "The time was over before every document was scored (native).",
}

_WARNING = {
    "description": "What of the request had no effect or was cut: a line for each warning.",
    "schema": {"type": "string"},
}

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "Api-Key"},
}


def _schema(components: dict[str, Any], *types: Any) -> dict[str, Any]:
    """Return the schema of one type, or a choice between several; what they consist of is added to `components`."""
    flat = [each for kind in types for each in (kind if isinstance(kind, tuple) else (kind,))]
    found, named = msgspec.json.schema_components(dict.fromkeys(flat), ref_template="#/components/schemas/{name}")
    components |= named
    return found[0] if len(found) == 1 else {"anyOf": list(found)}


def openapi(endpoints: Mapping[str, str]) -> dict[str, Any]:
    """Return the document: every route, with an example in every dialect that it speaks.

    Args:
        endpoints: "METHOD path" -> summary.
    """
    components: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint, summary in endpoints.items():
        method, path = endpoint.split()
        operation = _get(path) if method == "GET" else _POSTS.get(path, _rank)(path, components)
        if parameters := [
            {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for part in path.split("/")
            if part.startswith("{")
        ]:
            operation["parameters"] = parameters
        if not is_open(method, path):
            operation["security"] = [{}, *({name: []} for name in _KEYS)]
        name = path.translate(str.maketrans("/.", "__", "{}")).strip("_") or "index"
        operation |= {"operationId": f"{method.lower()}_{name}", "summary": summary, "tags": [_tag(path)]}
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Reranking API", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _KEYS},
    }


def _tag(path: str) -> str:
    if path in RANK or path in PATHS:
        return "rank"
    return "probes" if path in {**LIVE, **READY} else "about"


def _rank(path: str, components: dict[str, Any]) -> dict[str, Any]:
    spoken = [dialect for dialect in DIALECTS if path in dialect.paths]
    found = dialect_of(Call(path, {}, b""))
    usual = native.DIALECT if path == "/rerank" else documents.DIALECT if found is UNKNOWN else found
    examples = {
        dialect.name: {"summary": dialect.title, "value": dialect.example}
        for dialect in sorted(spoken, key=lambda dialect: dialect is not usual)
    }
    return _post(
        _schema(components, *(dialect.body for dialect in spoken)),
        examples,
        _schema(components, *(dialect.reply for dialect in spoken)),
        _schema(components, *(dialect.errors.body for dialect in (*DIALECTS, UNKNOWN))),
    )


def _batch(_path: str, components: dict[str, Any]) -> dict[str, Any]:
    return _post(
        {**_schema(components, list[native.RerankBody]), "minItems": 1},
        {"batch": {"value": [native.DIALECT.example]}},
        {"type": "array", "items": _schema(components, native.RerankReply, native.BatchError)},
        _schema(components, native.ErrorReply),
    )


def _tokenize(_path: str, components: dict[str, Any]) -> dict[str, Any]:
    return _post(
        _schema(components, tokenize.TokenizeBody),
        {"tei": {"value": tokenize.EXAMPLE}},
        _schema(components, list[list[tokenize.TokenReply]], tokenize.PromptTokens, tokenize.ContentTokens),
        _schema(components, tei.TeiError),
    )


_POSTS = {"/rerank/batch": _batch, "/tokenize": _tokenize}
"""Operations that score no single request; all others are `_rank`'s."""


def _post(
    body: dict[str, Any], examples: Mapping[str, Any], reply: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    def content(**kind: Any) -> dict[str, Any]:
        return {"content": {"application/json": kind}}

    success = {"description": "Scored.", "headers": {WARNING_HEADER: _WARNING}, **content(schema=reply)}
    failures = {str(status): {"description": text, **content(schema=error)} for status, text in _FAILURES.items()}
    return {
        "requestBody": {"required": True, **content(schema=body, examples=dict(examples))},
        "responses": {"200": success, **failures},
    }


def _get(path: str) -> dict[str, Any]:
    kind = "text/html" if path == "/docs" else "application/json"
    answers: dict[str, Any] = {"200": {"description": "Here it is.", "content": {kind: {}}}}
    if path in READY:
        answers["503"] = {"description": "loading or draining", "content": {kind: {}}}
    if "{" in path:
        answers["404"] = {"description": _FAILURES[404], "content": {kind: {}}}
    if not is_open("GET", path):
        answers["401"] = {"description": _FAILURES[401], "content": {kind: {}}}
    return {"responses": answers}
