"""Templates -> configuration files of programs that are not ours."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from webapp.api.error_body import dump_error
from webapp.config.paths import ROOT
from webapp.config.settings import PROXY_GRACE_S, SHUTDOWN_GRACE_S, Settings
from webapp.config.validators import listed
from webapp.domain.errors import (
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
from webapp.stack.nginx.process import NEWEST, Bounds, Nginx, bounds
from webapp.stack.nginx.traffic_split import PERCENTS
from webapp.stack.tls import certificate

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


def _body(status: int, error: type[RerankError], message: str) -> str:
    """The reply to what nginx refuses; nginx fills in the request's id."""
    return dump_error(error(message), status, "$rerank_request_id").decode()


REPLY_HEADERS = (
    *("X-Request-Id", "X-Deployment-Color", "X-Rerank-Warning", "X-Rerank-Degraded"),
    *("x-compute-tokens", "x-total-time", "x-queue-time", "x-tokenization-time", "x-inference-time"),
)
"""Headers of a worker's reply that nginx adds to the file it sends in its place."""


AGAIN_S = 30
"""For that long a balancer sends a request to another machine: longer than it takes to notice that one vanished (where
the kernel is told so), shorter than what a slow request may take."""


FOLLOWERS = 4000
"""Event streams and Socket.IO connections at the pusher, which has 8,192 descriptors and 2,000 event streams."""

FOLLOWERS_PER_ADDRESS = 500
"""A quarter of the pusher's event streams."""

KEYLESS_PER_ADDRESS = 32
"""Requests at work that show no key, where keys are configured: probes, and who is going to be refused."""

LARGE_BODIES_PER_ADDRESS = 128
"""Requests at work whose bodies may wait on the disk: 4 GB. The memory for bodies has room for as many by default."""

KEEP_ALIVE_S = 75

KEYLESS_KEEP_ALIVE_S = 5


@dataclass(frozen=True, slots=True)
class _Entrance:
    """Where a server of the http block listens, and who says whose connections those are."""

    listen: str
    told_by: str
    """Value of `real_ip_header`; empty: the connection itself tells."""
    believed: Sequence[str]
    """Peers who may tell."""
    balanced: bool = False
    """Whether balancers come here, and nobody else."""


def nginx_conf(settings: Settings, nginx: Nginx | None = None) -> str:
    """The configuration of this nginx before the programs of these settings."""
    nginx = nginx or Nginx()
    limits = bounds(settings, nginx)
    return _template("nginx.conf.j2").render(
        **_door(settings, nginx, limits, longest_s=settings.request_timeout_s + PROXY_GRACE_S),
        shares=PERCENTS,
        dashboard=ROOT / "pusher" / "dashboard",
        pusher_socket=settings.pusher_socket,
        metrics_socket=settings.metrics_socket,
        replies_dir=settings.replies_dir,
        reply_file_headers=REPLY_HEADERS,
        cors_origins=settings.cors_origin_list,
        requests_per_address=limits.requests_per_address,
        guarded=bool(settings.api_keys_file or settings.api_keys.get_secret_value()),
        keyless_per_address=KEYLESS_PER_ADDRESS,
        keyless_keep_alive_s=KEYLESS_KEEP_ALIVE_S,
        followers=FOLLOWERS,
        followers_per_address=FOLLOWERS_PER_ADDRESS,
        upstream_field="",
        beside=_body(503, UnavailableError, BESIDE),
    )


def balancer_conf(settings: Settings, nginx: Nginx | None = None) -> str:
    """The configuration of this nginx before the stacks of these settings."""
    nginx = nginx or Nginx()
    limits = bounds(settings, nginx)
    stacks = [urlsplit(address) for address in listed(settings.stacks)]
    return _template("balancer.conf.j2").render(
        **_door(settings, nginx, limits, longest_s=settings.request_timeout_s + SHUTDOWN_GRACE_S),  # above theirs
        stacks=[address.netloc for address in stacks],
        scheme=stacks[0].scheme,
        stacks_ca=Path(settings.stacks_ca).expanduser().absolute(),
        certified_name=stacks[0].hostname,
        cors_origins=[],  # the stacks' own
        requests_per_address=limits.connections_per_address,  # how many are admitted, the stacks decide
        guarded=False,  # the stacks know
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


def _door(settings: Settings, nginx: Nginx, limits: Bounds, longest_s: int) -> dict[str, Any]:
    """What every nginx of ours is told: where it listens, what it takes, what it logs and how it refuses."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listen, plain = f"{host}:{settings.port}", f"{host}:{settings.plain_port}" if settings.plain_port else ""
    balancers = listed(settings.balancers)
    sockets = settings.run_dir / "nginx"  # a folder that the operators' group may not pass through
    direct, balanced, redirects = (f"unix:{sockets}/{name}.sock" for name in ("direct", "balanced", "plain"))
    if nginx.stream is None:
        entrances = [_Entrance(listen, "X-Forwarded-For" if balancers else "", balancers)]
    else:
        entrances = [_Entrance(direct, "proxy_protocol", ["unix:"])]
        if balancers:
            entrances.append(_Entrance(balanced, "X-Forwarded-For", ["unix:"], balanced=True))
    return {
        "run_dir": settings.run_dir,
        "stream_module": nginx.stream,
        "counts": nginx.stream is not None,
        "limits": limits,
        "listen": listen,
        "plain_listen": plain,
        "entrances": entrances,
        "plain_entrance": plain and (plain if nginx.stream is None else redirects),
        "direct": direct,
        "balanced": balanced,
        "redirects": redirects,
        "balancers": balancers,
        "read_s": longest_s,
        "keep_alive_s": KEEP_ALIVE_S,
        "large_bodies_per_address": LARGE_BODIES_PER_ADDRESS,
        "port": settings.port,
        "certificate": certificate(settings),
        "http2_directive": nginx.version >= NEWEST,
        "hsts_s": settings.hsts_s,
        "user": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "",
        "max_body_mb": settings.max_body_mb,
        "shutdown_s": settings.request_timeout_s + SHUTDOWN_GRACE_S,
        "color": settings.color,
        "error_level": NGINX_LEVELS[settings.log_level],
        "levels_left_out": LEFT_OUT[settings.log_level],
        "codes": [(status, error.code) for status, error, _ in REFUSALS],
        "refusals": [(status, _body(status, error, message)) for status, error, message in REFUSALS],
    }
