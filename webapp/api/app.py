"""The Flask application: routes on a service, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask
from flask.sessions import NullSession, SessionInterface

from contracts.api_keys import KeyRing
from webapp.api import auth, errors, large_replies, middleware, reply_observer
from webapp.api.body_reader import InlineReader, Limits, Reader
from webapp.api.path_aliases import tidy_paths
from webapp.api.reply_files import ReplyFiles
from webapp.api.routes import deployment as deployments
from webapp.api.routes import docs, health, models, rerank, root
from webapp.api.routes.deployment import NOWHERE, Deployment
from webapp.service.rate_limit import Quota
from webapp.service.reranker import RerankService
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
    max_batch_requests: int = sys.maxsize,
    limits: Mapping[str, int],
    reader: Reader | None = None,
    keys: KeyRing | None = None,
    quota: Quota | None = None,
    watchers: Sequence[OnReply] = (),
    deployment: Deployment = NOWHERE,
    comparison: Callable[[], str] = str,
    watch: middleware.WatchOf = middleware.nobody_watches,
    reply_files: ReplyFiles | None = None,
) -> Flask:
    """Put the HTTP API before a service.

    Args:
        service: what the views call.
        request_timeout_s: longest time one request may take.
        max_body_bytes: larger bodies get 413.
        max_batch_requests: so do batches of more, unless `reader` has limits of its own.
        limits: shown by `/info`.
        reader: of bodies; None: they are read on the calling thread.
        keys: one of them must come with every call but probes; None: open to all.
        quota: what a caller may ask for in a minute; None: anything.
        watchers: told of every reply.
        deployment: which release this is.
        comparison: says what is known of other engines, for `/info`.
        watch: over the caller of a request, by its WSGI environment.
        reply_files: where nginx finds large replies; None: they are sent through the connection.
    """
    app = App("webapp", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # that would be a redirect, which not every client follows with its body
    app.wsgi_app = tidy_paths(app.wsgi_app)  # type: ignore[method-assign, assignment] # as Flask's manual has it
    reader = reader or InlineReader(Limits(max_body_bytes, batch_requests=max_batch_requests))
    middleware.install(app, request_timeout_s=request_timeout_s, reader=reader, watch=watch)
    reply_observer.install(app, watchers)
    if reply_files is not None:  # after the two above, so that its refusal is what they tell
        large_replies.install(app, reply_files, service.offload)
    errors.install(app)
    keys = keys or KeyRing()
    auth.install(app, keys, quota or Quota())
    app.register_blueprint(rerank.blueprint(service))
    app.register_blueprint(root.blueprint())
    app.register_blueprint(health.blueprint(service, guarded=keys.guarded))
    app.register_blueprint(models.blueprint(service, limits, deployment, comparison))
    app.register_blueprint(docs.blueprint(service.offload))
    deployments.install(app, deployment)
    return app
