"""nginx' configuration: rendered from templates, for the nginx of this machine and its limits."""

from __future__ import annotations

import os
import pwd
import re
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from webapp.api.dialects.unknown import dump_error
from webapp.api.probes import LIVE, READY
from webapp.config.paths import ROOT
from webapp.config.settings import PROXY_GRACE_S, SHUTDOWN_GRACE_S, Settings
from webapp.config.validators import is_address, is_loopback, listed
from webapp.domain import errors
from webapp.stack.nginx.traffic_split import PERCENTS
from webapp.stack.tls import certificate, served_certificate

REFUSALS: tuple[tuple[int, type[errors.RerankError], str], ...] = (
    (400, errors.InvalidRequestError, "the request is not valid HTTP"),
    (404, errors.NotFoundError, "there is nothing at this path"),
    (405, errors.MethodNotAllowedError, "this method is not served"),
    (408, errors.UnavailableError, "the request did not arrive in time"),
    (413, errors.PayloadTooLargeError, "the body is larger than this service accepts"),
    (414, errors.InvalidRequestError, "the request line is too long"),
    (429, errors.OverloadedError, "too many requests of this address are at work"),
    (500, errors.InternalError, "an internal error"),
    (501, errors.InvalidRequestError, "this transfer encoding is not served"),
    (503, errors.UnavailableError, "the service is starting or restarting"),
    (504, errors.DeadlineExceededError, "no answer came in time"),
    (505, errors.InvalidRequestError, "this version of HTTP is not served"),
)
"""What nginx refuses by itself. It knows no dialect, so these are errors for callers of every format."""

SIDECAR_DOWN = "the program behind this path does not answer; ranking goes on without it"
"""The message in place of the pusher and the metrics exporter."""

OMITTED_LEVELS = {"debug": "none", "info": "none", "warning": "info", "error": "info|warning"}
"""RERANK_LOG_LEVEL -> levels of nginx' access lines that are not written."""

NGINX_LEVELS = {"debug": "notice", "info": "notice", "warning": "warn", "error": "error"}
"""RERANK_LOG_LEVEL -> nginx' own level."""

REPLY_HEADERS = (
    *("X-Request-Id", "X-Deployment-Color", "X-Rerank-Warning", "X-Rerank-Degraded"),
    *("x-compute-tokens", "x-total-time", "x-queue-time", "x-tokenization-time", "x-inference-time"),
)
"""Headers of a worker's reply that nginx adds to the file it sends in its place."""

RESOLV_CONF = Path("/etc/resolv.conf")

RETRY_S = 30
"""Time within which a balancer sends a request to another machine: longer than it takes to notice that one vanished
(with the kernel's settings of docs/scaling.md), shorter than what a slow request may take."""

FOLLOWERS = 4000
"""Event streams and Socket.IO connections at the pusher, which has 8,192 descriptors and 2,000 event streams."""

FOLLOWERS_PER_ADDRESS = 500
"""A quarter of the pusher's event streams."""

KEYLESS_PER_ADDRESS = 32
"""Requests at work that show no key, where keys are configured: probes, and callers that will be refused."""

LARGE_BODIES_PER_ADDRESS = 128
"""Requests at work whose bodies may wait on the disk: 4 GB. The memory for bodies has room for as many by default."""

KEEP_ALIVE_S = 75

KEYLESS_KEEP_ALIVE_S = 5

HALF_CLOSE = (1, 21, 4)
"""The first nginx whose stream module lets http read on after a refusal."""

NEWEST = (1, 25, 1)
"""The first nginx where HTTP/2 is a directive of its own."""

STREAM_MODULE = "ngx_stream_module.so"

STREAM_REMEDY = "install nginx 1.21.4 or newer and its stream module (Debian: libnginx-mod-stream)"

WITHOUT_STREAM = f"nginx can't bound the connections of one address: {STREAM_REMEDY}"

LEAST_CONNECTIONS = 16_384
"""Connections of each of nginx' workers, if it may have that many files open."""

MOST_CONNECTIONS = 65_536
"""Connections of all workers together, if that is more; each takes 0.4 KiB from the start."""

PER_CLIENT = 4
"""Connections of nginx for a client at work: the client's, two ends of the pipe from stream to http, the upstream's."""

REFUSED_AT_ONCE = 128
"""Requests of one address beyond those that one worker admits; gunicorn's pool has room for twice as many, so other
addresses find some."""


def _files() -> int:
    """Return how many files a process may have open here, at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**20 if hard == resource.RLIM_INFINITY else hard


@dataclass(frozen=True, slots=True)
class Nginx:
    """The nginx of this machine."""

    version: tuple[int, ...] = NEWEST
    stream: str | None = ""
    """The stream module: the path to load it from; empty: it is compiled in; None: there is none."""
    files: int = field(default_factory=_files)
    """Files that one process may have open."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most connections and requests."""

    files: int
    """Files of a worker of nginx."""
    connections: int
    """Connections of a worker of nginx, with those to our own programs."""
    connections_per_address: int
    """Connections from one address."""
    connections_of_strangers: int
    """Connections from all addresses that are neither balancers nor this machine's own."""
    requests_per_address: int
    """Requests of one address at work."""


def inspect_nginx(nginx: str) -> Nginx:
    """Return version and modules of the nginx at this path, by `nginx -V`; what can't be read counts as missing."""
    output = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/([0-9]+(?:\.[0-9]+)*)", output)
    version = tuple(map(int, found[1].split("."))) if found else (0,)
    return Nginx(version, _stream_module(output) if version >= HALF_CLOSE else None)


def _stream_module(output: str) -> str | None:
    flags = dict(re.findall(r"--([\w-]+)=?(\S*)", output))
    if flags.get("with-stream") != "dynamic":
        return flags.get("with-stream")
    folder = flags.get("modules-path") or f"{flags.get('prefix', '')}/modules"
    path = Path(folder) / STREAM_MODULE
    return str(path) if path.exists() else None


def limits_of(settings: Settings, nginx: Nginx) -> Limits:
    """Return how many connections and requests this nginx takes with these settings.

    One address gets half of what one worker can hold, so that others find room even where the kernel gave one worker
    all connections of that address.
    """
    at_least = max(LEAST_CONNECTIONS, MOST_CONNECTIONS // nginx.workers)
    connections = min(nginx.files * 3 // 4, at_least)  # a quarter is for bodies and replies on disk
    clients = connections * nginx.workers // PER_CLIENT
    admitted = settings.workers * (settings.max_ongoing_requests + REFUSED_AT_ONCE)
    fair = max(connections // (2 * PER_CLIENT), min(admitted, clients // 2))
    return Limits(
        files=min(nginx.files, connections * 4 // 3),
        connections=connections,
        connections_per_address=settings.connections_per_address or fair,
        connections_of_strangers=clients * 7 // 8,
        # As many as the workers admit, and some that they refuse: below their connection pools, whose overflow hangs.
        requests_per_address=admitted,
    )


@dataclass(frozen=True, slots=True)
class _Entrance:
    """A server of the http block: where it listens, and which peers may name the client's address."""

    listen: str
    real_ip_header: str
    """Header or protocol that names the client; empty: the connection itself does."""
    trusted_peers: Sequence[str]
    balanced: bool = False
    """Whether only balancers come here."""


def nginx_conf(settings: Settings, nginx: Nginx | None = None) -> str:
    """Return the configuration of this nginx in front of the programs of these settings' stack."""
    nginx = nginx or Nginx()
    limits = limits_of(settings, nginx)
    return _template("nginx.conf.j2").render(
        **_common(settings, nginx, limits, longest_s=settings.request_timeout_s + PROXY_GRACE_S),
        shares=PERCENTS,
        reply_file_headers=REPLY_HEADERS,
        cors_origins=settings.cors_origin_list,
        requests_per_address=limits.requests_per_address,
        guarded=bool(settings.api_keys_file or settings.api_keys.get_secret_value()),
        keyless_per_address=KEYLESS_PER_ADDRESS,
        keyless_keep_alive_s=KEYLESS_KEEP_ALIVE_S,
        upstream_field="",
    )


def balancer_conf(settings: Settings, nginx: Nginx | None = None) -> str:
    """Return the configuration of this nginx in front of the stacks that these settings name."""
    nginx = nginx or Nginx()
    limits = limits_of(settings, nginx)
    stacks = [urlsplit(address) for address in listed(settings.stacks)]
    return _template("balancer.conf.j2").render(
        **_common(settings, nginx, limits, longest_s=settings.request_timeout_s + SHUTDOWN_GRACE_S),  # above theirs
        readiness="|".join(path.replace(".", r"\.") for path in READY),
        stacks=[address.netloc for address in stacks],
        scheme=stacks[0].scheme,
        stacks_ca=Path(settings.stacks_ca).expanduser().absolute(),
        certified_name=stacks[0].hostname,
        cors_origins=[],  # the stacks' own
        requests_per_address=limits.connections_per_address,  # how many are admitted, the stacks decide
        guarded=False,  # the stacks know
        retry_s=RETRY_S,
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


def _common(settings: Settings, nginx: Nginx, limits: Limits, longest_s: int) -> dict[str, Any]:
    """Return the values of both templates: where nginx listens, what it takes, what it logs and how it refuses."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listen, plain = f"{host}:{settings.port}", settings.plain_port and f"{host}:{settings.plain_port}"
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
        "settings": settings,
        "stream_module": nginx.stream,
        "counts": nginx.stream is not None,
        "limits": limits,
        "probes": "|".join(path.replace(".", r"\.") for path in (*LIVE, *READY)),
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
        "certificate": certificate(settings),
        "served_certificate": served_certificate(settings),
        "http2_directive": nginx.version >= NEWEST,
        "user": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "",
        "shutdown_s": settings.request_timeout_s + SHUTDOWN_GRACE_S,
        "dashboard": ROOT / "pusher" / "dashboard",
        "pusher": _pusher_of(settings),
        "followers": FOLLOWERS,
        "followers_per_address": FOLLOWERS_PER_ADDRESS,
        "sidecar_down": _body(503, errors.UnavailableError, SIDECAR_DOWN),
        "error_level": NGINX_LEVELS[settings.log_level],
        "omitted_levels": OMITTED_LEVELS[settings.log_level],
        "refusals": [(status, error.code, _body(status, error, message)) for status, error, message in REFUSALS],
    }


@dataclass(frozen=True, slots=True)
class _Pusher:
    """Where nginx finds the pusher."""

    server: str = ""
    """Its socket, or its address and port; empty: `name` says where."""
    name: str = ""
    """A name and a port, to be looked up again and again."""
    nameservers: str = ""
    """Where names are looked up, as nginx takes them."""


def _pusher_of(settings: Settings, resolv_conf: Path = RESOLV_CONF) -> _Pusher:
    if not settings.pusher_url:
        return _Pusher(server=f'"unix:{settings.pusher_socket}"')
    address = urlsplit(settings.pusher_url)
    host = address.hostname or ""
    if is_loopback(host) and not is_address(host):
        return _Pusher(server=f"127.0.0.1:{address.port}")  # DNS need not know it
    if is_address(host):
        return _Pusher(server=address.netloc)
    return _Pusher(name=address.netloc, nameservers=" ".join(nameservers(resolv_conf)))


def nameservers(resolv_conf: Path = RESOLV_CONF) -> list[str]:
    """Return this machine's nameservers as nginx takes them; where none is named, itself, as for the C library."""
    try:
        words = [line.split() for line in resolv_conf.read_text().splitlines()]
    except OSError:
        words = []
    found = [each[1] for each in words if each[:1] == ["nameserver"] and len(each) > 1 and is_address(each[1])]
    return [f"[{each}]" if ":" in each else each for each in found] or ["127.0.0.1"]


def _body(status: int, error: type[errors.RerankError], message: str) -> str:
    """Return the reply to what nginx refuses; nginx fills in the request's id."""
    return dump_error(error(message), status, "$rerank_request_id").decode()
