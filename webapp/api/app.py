"""The Flask application: routes on a service, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask
from flask.sessions import NullSession, SessionInterface

from contracts.api_keys import KeyRing
from webapp.api import auth, errors, middleware
from webapp.api.body_reader import Reader
from webapp.api.current_request import WatchOf
from webapp.api.reply_files import ReplyFiles, send_large_as_files
from webapp.api.routes import docs, health, info, rerank
from webapp.api.routes.info import Deployment
from webapp.service.rate_limit import Quota
from webapp.service.reranker import RerankService
from webapp.telemetry.observer import Observer

ENDPOINTS = {**rerank.ENDPOINTS, **health.ENDPOINTS, **info.ENDPOINTS, **docs.ENDPOINTS}
"""Every route, as "METHOD path" -> summary; each is declared beside its view."""

_SLASHES = re.compile("/{2,}")

_BASE = re.compile("/(?:v1|v2|api|openai)(?=/v[12]/)")
"""A base address that ends in a version or in a gateway's prefix, before the path that a client appends by itself."""


class _NoSessions(SessionInterface):
    """One session without content, for all."""

    _none = NullSession()

    def open_session(self, *_: object) -> NullSession:
        return self._none


class App(Flask):
    """Flask without features that this API never needs and every request would pay for."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the view: none is a coroutine."""
        return func

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Normalize the path before routes are matched."""
        environ["PATH_INFO"] = normalize_path(environ["PATH_INFO"])
        return super().wsgi_app(environ, start_response)


def create_app(
    service: RerankService,
    *,
    request_timeout_s: float,
    max_body_bytes: int,
    limits: Mapping[str, int],
    reader: Reader,
    keys: KeyRing,
    quota: Quota,
    observer: Observer,
    deployment: Deployment,
    comparison: Callable[[], str] = str,
    watch: WatchOf = nullcontext,
    reply_files: ReplyFiles | None = None,
) -> Flask:
    """Return the HTTP API of a service.

    Args:
        service: what the views call.
        request_timeout_s: longest time one request may take.
        max_body_bytes: larger bodies get 413.
        limits: shown by `/info`.
        reader: reads bodies.
        keys: every call but probes must send one of them, if there are any.
        quota: limits of each caller per minute.
        observer: gets every reply.
        deployment: which release this is.
        comparison: returns what is known of other engines, for `/info`.
        watch: watches over the connection of a request, by its WSGI environment.
        reply_files: where nginx finds large replies; None: they are sent through the connection.
    """
    app = App("webapp", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # that would be a redirect, which not every client follows with its body
    middleware.install(app, request_timeout_s=request_timeout_s, reader=reader, watch=watch, observer=observer)
    if reply_files is not None:  # after the observer, so that it sees its refusals
        send_large_as_files(app, reply_files, service.offload)
    errors.install(app, {endpoint.split()[1] for endpoint in ENDPOINTS})
    auth.install(app, keys, quota)
    app.register_blueprint(rerank.blueprint(service))
    app.register_blueprint(health.blueprint(service))
    app.register_blueprint(info.blueprint(service, limits, deployment, comparison, guarded=keys.guarded))
    app.register_blueprint(docs.blueprint(service.offload, ENDPOINTS))
    return app


def normalize_path(path: str) -> str:
    """Return the meant path: `//rerank` is `/rerank`, `/v1/v1/rerank` and `/api/v1/rerank` are `/v1/rerank`.

    Clients append a path to a base address: `http://host/` + `/rerank`, `http://host/v1` + `/v1/rerank`. A path of a
    dialect stays as it is, whatever it begins with.
    """
    path = _SLASHES.sub("/", path)
    base = None if path.rstrip("/") in rerank.PATHS else _BASE.match(path)
    return path[base.end() :] if base else path
