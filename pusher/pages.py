"""/dashboard: static files under a strict Content-Security-Policy, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from flask import Blueprint, Response, abort, redirect, send_from_directory

DASHBOARD = Path(__file__).resolve().parent / "dashboard"

VENDOR = {
    "socket.io.js": ("socket.io-client", "dist/socket.io.esm.min.js"),
    "uplot.js": ("uplot", "dist/uPlot.esm.js"),
    "uplot.css": ("uplot", "dist/uPlot.min.css"),
}
"""What the page loads from packages: our name -> package, file in it. Installed by scripts/serve."""

_IMPORT_MAP = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)


def content_security_policy(page: bytes) -> str:
    """Only our own files run; the one inline script, the import map, by its hash."""
    inline = _IMPORT_MAP.search(page)
    digest = base64.b64encode(hashlib.sha256(inline[1]).digest()).decode() if inline else ""
    scripts = f"'self' 'sha256-{digest}'" if digest else "'self'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def blueprint(dashboard: Path = DASHBOARD) -> Blueprint:
    """The page and its files."""
    views = Blueprint("pages", __name__)

    @views.after_request
    def guard(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @views.get("/dashboard")
    def no_slash() -> Response:
        # Relative, so that it holds behind a prefix.
        response = redirect("dashboard/", 308)
        response.autocorrect_location_header = False
        return response  # type: ignore[return-value] # werkzeug's base class

    @views.get("/dashboard/")
    def page() -> Response:
        text = (dashboard / "index.html").read_bytes()
        response = Response(text, content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = content_security_policy(text)
        response.headers["Cache-Control"] = "no-cache"
        return response

    @views.get("/dashboard/vendor/<name>")
    def vendor(name: str) -> Response:
        if name not in VENDOR:
            abort(404)
        package, file = VENDOR[name]
        return _file(dashboard / "node_modules" / package, file)

    @views.get("/dashboard/<name>")
    def file(name: str) -> Response:
        if Path(name).suffix not in {".js", ".css", ".svg"}:
            abort(404)
        return _file(dashboard, name)

    return views


def _file(directory: Path, name: str) -> Response:
    response = send_from_directory(directory, name, conditional=True)
    response.headers["Cache-Control"] = "no-cache"  # asked for again, answered by 304
    if name.endswith(".js"):
        response.content_type = "text/javascript; charset=utf-8"  # a system's table of types may say otherwise
    return response
