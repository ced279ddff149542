"""Swagger UI from files installed beside us, and the document that it shows."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import msgspec
from flask import Blueprint, Response, redirect, request, send_from_directory
from werkzeug.wrappers import Response as ResponseBase

from webapp.api.openapi import openapi
from webapp.api.prefix import HEADER, prefix
from webapp.domain.concurrency import Offload

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reranking API</title>
<link rel="icon" href="dashboard/icon.svg"><link rel="stylesheet" href="docs/assets/css/swagger-ui.css"></head>
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


def blueprint(elsewhere: Offload) -> Blueprint:
    """The pages. The document is made when somebody asks for it: `elsewhere`, for the hub would be held."""
    views = Blueprint("docs", __name__)
    # Without its first brace: what differs by request goes before the rest.
    document = functools.cache(lambda: elsewhere(lambda: msgspec.json.encode(openapi())[1:]))
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise RuntimeError("flask-openapi3-swagger is not installed")
    assets = Path(spec.origin).parent / "templates" / "swagger"

    @views.get("/openapi.json")
    @views.get("/api-doc/openapi.json")
    def openapi_json() -> Response:
        # Without a prefix: relative to this very document, so that it holds behind a proxy that says nothing, too.
        url = prefix() or "." + "/.." * (request.path.rstrip("/").count("/") - 1)
        servers = msgspec.json.encode({"servers": [{"url": url}]})[:-1]
        reply = Response(servers + b"," + document(), content_type="application/json")
        reply.vary.add(HEADER)
        return reply

    @views.get("/docs")
    def page() -> ResponseBase:
        if request.path.endswith("/"):  # where the links of the page would lead nowhere
            aside = redirect("../docs", 308)
            aside.autocorrect_location_header = False
            return aside
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
