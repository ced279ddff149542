"""Pages for people: the front page, and Swagger UI (files of a Python package) with the document that it shows."""

from __future__ import annotations

import functools
import html
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from flask import Blueprint, Response, redirect, request, send_from_directory
from werkzeug.wrappers import Response as ResponseBase

from webapp import __version__
from webapp.api.openapi import openapi
from webapp.domain.concurrency import Offload

ENDPOINTS = {"GET /docs": "try the API in a browser", "GET /openapi.json": "the API as OpenAPI 3.1"}

PREFIX_HEADER = "X-Forwarded-Prefix"
"""The path under which a proxy serves us, if it says so."""

_PREFIX = re.compile(r"((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)/?")
"""Names between single slashes: no other host (`//evil`), no way up, nothing that a page would have to escape."""

_SHORT = {"health": "/health", "rerank": "/rerank", "docs": "/docs"}
"""The names by which clients of the usual tutorial server look paths up, beside ours."""

_LINKS = {
    "dashboard/": "Dashboard: requests and workers, live, and a playground",
    "docs": "API: every format, to be tried in the browser",
    "openapi.json": "The API as OpenAPI 3.1",
    "info": "What is served: model, precision, limits, versions",
    "health": "Health",
    "ready": "Readiness",
    "metrics": "Metrics for Prometheus",
}

_FRONT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Reranking</title>
<link rel="icon" href="{icon}"><style>:root{{color-scheme:light dark}}
body{{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}</style></head>
<body><h1>Reranking</h1><p>Version {version}. Programs send <code>POST {base}rerank</code>.</p>
<ul>{links}</ul>
</body></html>"""

_SWAGGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reranking API</title>
<link rel="icon" href="dashboard/icon.svg"><link rel="stylesheet" href="docs/assets/css/swagger-ui.css"></head>
<body><div id="ui"></div>
<script src="docs/assets/js/swagger-ui-bundle.js"></script><script src="docs/start.js"></script>
</body></html>"""

_START = (
    'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true,'
    " defaultModelsExpandDepth: 0, persistAuthorization: true});"
)

_FRONT_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SWAGGER_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; font-src 'self'; "
    "style-src 'self' 'unsafe-inline'; "  # Swagger UI writes style attributes
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(offload: Offload, endpoints: Mapping[str, str]) -> Blueprint:
    """Return the pages.

    Args:
        offload: makes the OpenAPI document when it is first asked for; that would hold the hub.
        endpoints: every route of the API.

    Raises:
        RuntimeError: the package with Swagger UI is not installed.
    """
    views = Blueprint("docs", __name__)
    # Without its first brace: what differs by request goes before the rest.
    document = functools.cache(lambda: offload(lambda: msgspec.json.encode(openapi(endpoints))[1:]))
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise RuntimeError("flask-openapi3-swagger is not installed")
    assets = Path(spec.origin).parent / "templates" / "swagger"
    listed = msgspec.json.encode({"service": "reranking", "version": __version__, "endpoints": {**_SHORT, **endpoints}})

    @views.get("/")
    def front() -> Response:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            reply = _page(_front_page(), _FRONT_POLICY)
        else:
            reply = Response(listed, content_type="application/json")
        reply.vary.update(["Accept", PREFIX_HEADER])
        return reply

    @views.get("/openapi.json")
    @views.get("/api-doc/openapi.json")
    def openapi_json() -> Response:
        # Without a prefix: relative to this very document, so that it holds behind a proxy that says nothing, too.
        url = _prefix() or "." + "/.." * (request.path.rstrip("/").count("/") - 1)
        servers = msgspec.json.encode({"servers": [{"url": url}]})[:-1]
        reply = Response(servers + b"," + document(), content_type="application/json")
        reply.vary.add(PREFIX_HEADER)
        return reply

    @views.get("/docs")
    def swagger() -> ResponseBase:
        if request.path.endswith("/"):  # where the links of the page would lead nowhere
            aside = redirect("../docs", 308)
            aside.autocorrect_location_header = False
            return aside
        return _page(_SWAGGER, _SWAGGER_POLICY)

    @views.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, content_type="text/javascript; charset=utf-8")

    @views.get("/docs/assets/<path:name>")
    def asset(name: str) -> Response:
        return send_from_directory(assets, name, max_age=3600)

    return views


def _page(text: str, policy: str) -> Response:
    return Response(text, headers={"Content-Security-Policy": policy}, content_type="text/html; charset=utf-8")


def _front_page() -> str:
    prefix = _prefix()
    base = "" if prefix is None else f"{prefix}/"
    links = "".join(f'<li><a href="{base}{path}">{html.escape(text)}</a></li>' for path, text in _LINKS.items())
    return _FRONT.format(version=__version__, base=base or "/", icon=f"{base}dashboard/icon.svg", links=links)


def _prefix() -> str | None:
    """Return the proxy's prefix without a slash at its end, as `/search`; None if there is none or it is not plain."""
    found = _PREFIX.fullmatch(request.headers.get(PREFIX_HEADER, ""))
    return found[1] if found else None
