"""Templates -> configuration files of programs that are not ours."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from webapp.error_reply import dump_error
from webapp.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    RerankError,
    UnavailableError,
)
from webapp.settings import PROXY_GRACE_S, SHUTDOWN_GRACE_S, Settings
from webapp.shares import PERCENTS
from webapp.soundness import listed
from webapp.source_tree import PROJECT, ROOT
from webapp.tls import certificate

REFUSALS: tuple[tuple[int, type[RerankError], str], ...] = (
    (400, InvalidRequestError, "the request is not valid HTTP"),
    (404, NotFoundError, "there is nothing at this path"),
    (405, MethodNotAllowedError, "this method is not served"),
    (408, UnavailableError, "the request did not arrive in time"),
    (413, PayloadTooLargeError, "the body is larger than this service accepts"),
    (414, InvalidRequestError, "the request line is too long"),
    (429, OverloadedError, "too many requests of this address are at work"),
    (500, InternalError, "an internal error"),
    (501, InvalidRequestError, "this transfer encoding is not served"),
    (503, UnavailableError, "the service is starting or restarting"),
    (504, DeadlineExceededError, "no answer came in time"),
    (505, InvalidRequestError, "this version of HTTP is not served"),
)
"""What nginx refuses by itself. It knows no dialect, so these are errors for callers of every format."""

BESIDE = "the program behind this path does not answer; ranking goes on without it"
"""Of the pusher and the exporter of metrics."""

LEFT_OUT = {"debug": "none", "info": "none", "warning": "info", "error": "info|warning"}
"""Levels of nginx' access lines that are not written at a level of ours."""

NGINX_LEVELS = {"debug": "notice", "info": "notice", "warning": "warn", "error": "error"}
"""Our levels as nginx has them."""


REFUSED_AT_ONCE = 128
"""Of one address and one worker; gunicorn's pool has room for twice as many, so other addresses find some."""


def _body(status: int, error: type[RerankError], message: str) -> str:
    """The reply to what nginx refuses; nginx fills in the request's id."""
    return dump_error(error(message), status, "$rerank_request_id").decode()


HTTP2_DIRECTIVE = (1, 25, 1)
"""Since this nginx, HTTP/2 is a directive of its own."""


AGAIN_S = 30
"""For that long a balancer sends a request to another machine: longer than it takes to notice that one vanished (where
the kernel is told so), shorter than what a slow request may take."""


def nginx_conf(settings: Settings, version: tuple[int, ...] = HTTP2_DIRECTIVE) -> str:
    """The configuration of an nginx of this version before the programs of these settings."""
    return _template("nginx.conf.j2").render(
        **_door(settings, version),
        shares=PERCENTS,
        dashboard=PROJECT / "pusher" / "dashboard",
        pusher_socket=settings.pusher_socket,
        metrics_socket=settings.metrics_socket,
        cors_origins=settings.cors_origin_list,
        balancers=listed(settings.balancers),
        # As many as the workers admit, and some that they refuse: below their connection pools, whose overflow hangs.
        connections_per_address=settings.workers * (settings.max_ongoing_requests + REFUSED_AT_ONCE),
        read_s=settings.request_timeout_s + PROXY_GRACE_S,
        upstream_field="",
        beside=_body(503, UnavailableError, BESIDE),
    )


def balancer_conf(settings: Settings, version: tuple[int, ...] = HTTP2_DIRECTIVE) -> str:
    """The configuration of an nginx of this version before the stacks of these settings."""
    stacks = [urlsplit(address) for address in listed(settings.stacks)]
    return _template("balancer.conf.j2").render(
        **_door(settings, version),
        stacks=[address.netloc for address in stacks],
        scheme=stacks[0].scheme,
        stacks_ca=Path(settings.stacks_ca).expanduser().absolute(),
        certified_name=stacks[0].hostname,
        cors_origins=[],  # the stacks' own
        read_s=settings.request_timeout_s + SHUTDOWN_GRACE_S,  # above theirs
        again_s=AGAIN_S,
        upstream_field=',"upstream":"$upstream_addr"',
    )


def _template(name: str) -> Template:
    templates = Environment(
        loader=FileSystemLoader(ROOT / "nginx"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - a configuration file, not a page; values come from settings # nosec B701
        keep_trailing_newline=True,
    )
    return templates.get_template(name)


def _door(settings: Settings, version: tuple[int, ...]) -> dict[str, Any]:
    """What every nginx of ours is told: where it listens, what it takes, what it logs and how it refuses."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "run_dir": settings.run_dir,
        "listen": f"{host}:{settings.port}",
        "plain_listen": f"{host}:{settings.plain_port}" if settings.plain_port else "",
        "port": settings.port,
        "certificate": certificate(settings),
        "http2_directive": version >= HTTP2_DIRECTIVE,
        "hsts_s": settings.hsts_s,
        "user": getpass.getuser() if os.geteuid() == 0 else "",
        "max_body_mb": settings.max_body_mb,
        "shutdown_s": settings.request_timeout_s + SHUTDOWN_GRACE_S,
        "colour": settings.colour,
        "error_level": NGINX_LEVELS[settings.log_level],
        "levels_left_out": LEFT_OUT[settings.log_level],
        "codes": [(status, error.code) for status, error, _ in REFUSALS],
        "refusals": [(status, _body(status, error, message)) for status, error, message in REFUSALS],
    }
