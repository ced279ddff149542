"""Swagger UI from files installed beside us, and the document that it shows."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import msgspec
from flask import Blueprint, Response, send_from_directory

from webapp.api.openapi import openapi
from webapp.waiting import Elsewhere

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reranking API</title>
<link rel="stylesheet" href="docs/assets/css/swagger-ui.css"></head>
<body><div id="ui"></div>
<script src="docs/assets/js/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>"""

_START = (
    'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true,'
    " defaultModelsExpandDepth: 0, persistAuthorization: true});"
)

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; font-src 'self'; "
    "style-src 'self' 'unsafe-inline'; "  # Swagger UI writes style attributes
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(elsewhere: Elsewhere) -> Blueprint:
    """The pages. The document is made when somebody asks for it: `elsewhere`, for the hub would be held."""
    views = Blueprint("docs", __name__)
    document = functools.cache(lambda: elsewhere(lambda: msgspec.json.encode(openapi())))
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise RuntimeError("flask-openapi3-swagger is not installed")
    assets = Path(spec.origin).parent / "templates" / "swagger"

    @views.get("/openapi.json")
    @views.get("/api-doc/openapi.json")
    def openapi_json() -> Response:
        return Response(document(), content_type="application/json")

    @views.get("/docs")
    def page() -> Response:
        response = Response(_PAGE, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        return response

    @views.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, content_type="text/javascript; charset=utf-8")

    @views.get("/docs/assets/<path:name>")
    def asset(name: str) -> Response:
        return send_from_directory(assets, name, max_age=3600)

    return views
