"""The Flask application: routes on a service, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask
from flask.sessions import NullSession, SessionInterface

from pusher.keys import KeyRing
from webapp.api import auth, docs, front, health, models, problems, replies, request_context, rerank
from webapp.api import deployment as deployments
from webapp.api.deployment import NOWHERE, Deployment
from webapp.api.paths import tidy_paths
from webapp.api.reading import Limits, Reader, ReadHere
from webapp.quota import Quota
from webapp.service import RerankService
from webapp.telemetry.observer import OnReply


class _NoSessions(SessionInterface):
    """One session without content, for all."""

    _none = NullSession()

    def open_session(self, *_: object) -> NullSession:
        return self._none


class App(Flask):
    """Flask without what this API never needs, for every request would pay for it."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine."""
        return func


def create_app(
    service: RerankService,
    *,
    request_timeout_s: float,
    max_body_bytes: int,
    limits: Mapping[str, int],
    reader: Reader | None = None,
    keys: KeyRing | None = None,
    quota: Quota | None = None,
    watchers: Sequence[OnReply] = (),
    deployment: Deployment = NOWHERE,
    comparison: Callable[[], str] = str,
    watch: request_context.WatchOf = request_context.nobody_watches,
) -> Flask:
    """Put the HTTP API before a service.

    Args:
        service: what the views call.
        request_timeout_s: longest time one request may take.
        max_body_bytes: larger bodies get 413.
        limits: shown by `/info`.
        reader: of bodies; None: they are read on the calling thread.
        keys: one of them must come with every call but probes; None: open to all.
        quota: what a caller may ask for in a minute; None: anything.
        watchers: told of every reply.
        deployment: which release this is.
        comparison: says what is known of other engines, for `/info`.
        watch: over the caller of a request, by its WSGI environment.
    """
    app = App("webapp", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # that would be a redirect, which not every client follows with its body
    app.wsgi_app = tidy_paths(app.wsgi_app)  # type: ignore[method-assign, assignment] # as Flask's manual has it
    reader = reader or ReadHere(Limits(max_body_bytes))
    request_context.install(app, request_timeout_s=request_timeout_s, reader=reader, watch=watch)
    replies.install(app, watchers)
    problems.install(app)
    keys = keys or KeyRing()
    auth.install(app, keys, quota or Quota())
    app.register_blueprint(rerank.blueprint(service))
    app.register_blueprint(front.blueprint())
    app.register_blueprint(health.blueprint(service, guarded=keys.guarded))
    app.register_blueprint(models.blueprint(service, limits, deployment, comparison))
    app.register_blueprint(docs.blueprint(service.elsewhere))
    deployments.install(app, deployment)
    return app
