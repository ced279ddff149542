"""/openapi.json from the very types that check requests, and Swagger UI from files installed beside us."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
from flask import Blueprint, Response, send_from_directory

from webapp import __version__
from webapp.api.dialects import native
from webapp.api.health import ENDPOINTS

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reranking API</title>
<link rel="stylesheet" href="docs/assets/css/swagger-ui.css"></head>
<body><div id="ui"></div>
<script src="docs/assets/js/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>"""

_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true});'

_ERRORS = {
    400: "The request is malformed; the error names the field.",
    413: "The body is over the limit.",
    500: "The model could not score the request, or a fault of ours.",
    503: "Full, loading or draining: try again after Retry-After seconds.",
    504: "The time was over before every document was scored.",
}


def openapi() -> dict[str, Any]:
    """The API as an OpenAPI 3.1 document."""
    shapes = [native.RerankBody, native.RerankReply, native.BatchError, native.ErrorReply]
    schemas, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    body, reply, batch_error, error = schemas
    batch_body = {"type": "array", "minItems": 1, "items": body}
    batch_reply = {"type": "array", "items": {"anyOf": [reply, batch_error]}}

    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    def post(name: str, summary: str, asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
        failures = {str(status): {"description": text, "content": content(error)} for status, text in _ERRORS.items()}
        return {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": content(asked)},
            "responses": {"200": {"description": "Ranked, best first.", "content": content(answered)}, **failures},
        }

    paths: dict[str, Any] = {}
    for endpoint, summary in ENDPOINTS.items():
        method, path = endpoint.split()
        if method == "GET":
            name = path.strip("/").replace(".", "_") or "index"
            answers: dict[str, Any] = {"200": {"description": summary}}
            if path == "/ready":
                answers["503"] = {"description": "loading or draining"}
            paths[path] = {"get": {"operationId": name, "summary": summary, "responses": answers}}
    paths["/rerank"] = {"post": post("rerank", ENDPOINTS["POST /rerank"], body, reply)}
    paths["/rerank/batch"] = {"post": post("rerank_batch", ENDPOINTS["POST /rerank/batch"], batch_body, batch_reply)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Reranking API", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def blueprint() -> Blueprint:
    """The pages."""
    views = Blueprint("docs", __name__)
    document = msgspec.json.encode(openapi())
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise RuntimeError("flask-openapi3-swagger is not installed")
    assets = Path(spec.origin).parent / "templates" / "swagger"

    @views.get("/openapi.json")
    def openapi_json() -> Response:
        return Response(document, content_type="application/json")

    @views.get("/docs")
    def page() -> Response:
        return Response(_PAGE, content_type="text/html; charset=utf-8")

    @views.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, content_type="text/javascript; charset=utf-8")

    @views.get("/docs/assets/<path:name>")
    def asset(name: str) -> Response:
        return send_from_directory(assets, name, max_age=3600)

    return views
