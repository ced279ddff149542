"""GET /: what this service has, as a page for a browser and as JSON for a program."""

from __future__ import annotations

import html

import msgspec
from flask import Blueprint, Response, request

from webapp import __version__
from webapp.api.prefix import HEADER, prefix
from webapp.api.routes.health import ENDPOINTS

SHORT = {"health": "/health", "rerank": "/rerank", "docs": "/docs"}
"""The names by which clients of the usual tutorial server look paths up, beside ours."""

LINKS = {
    "dashboard/": "Dashboard: requests and workers, live, and a playground",
    "docs": "API: every format, to be tried in the browser",
    "openapi.json": "The API as OpenAPI 3.1",
    "info": "What is served: model, precision, limits, versions",
    "health": "Health",
    "ready": "Readiness",
    "metrics": "Metrics for Prometheus",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Reranking</title>
<link rel="icon" href="{icon}"><style>:root{{color-scheme:light dark}}
body{{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}</style></head>
<body><h1>Reranking</h1><p>Version {version}. Programs send <code>POST {base}rerank</code>.</p>
<ul>{links}</ul>
</body></html>"""

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint() -> Blueprint:
    """Return the one route."""
    views = Blueprint("front", __name__)
    listed = msgspec.json.encode({"service": "reranking", "version": __version__, "endpoints": {**SHORT, **ENDPOINTS}})

    @views.get("/")
    def front() -> Response:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            reply = Response(_page(), content_type="text/html; charset=utf-8")
            reply.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        else:
            reply = Response(listed, content_type="application/json")
        reply.vary.update(["Accept", HEADER])
        return reply

    return views


def _page() -> str:
    said = prefix()
    base = "" if said is None else f"{said}/"
    links = "".join(f'<li><a href="{base}{path}">{html.escape(text)}</a></li>' for path, text in LINKS.items())
    return _PAGE.format(version=__version__, base=base or "/", icon=f"{base}dashboard/icon.svg", links=links)
