"""Configuration of a client (address, key, time limits), and what httpx gets of it."""

from __future__ import annotations

import ipaddress
import random
import re
import ssl
import urllib.parse
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from reranking_client._version import VERSION
from reranking_client.retrying import Budget, CallState, NoReply, Retries

CONNECT_S = 5.0
"""Longest wait for a connection. After that, a new try is more likely to succeed."""

STREAM_SILENCE_S = 25.0
"""Longest silence of a stream of events. The service sends something every ten seconds."""

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept: less than nginx keeps it (75 s), so that the client closes it first."""

DEADLINE_MARGIN_S = 0.25
"""The service gets up to this much less time than the client waits, so that its own timeout reply still arrives."""

Trust = str | Path | ssl.SSLContext | None
"""A file with the certificates to trust, an SSL context, or None for the certificates of the system."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,120}")


@dataclass(frozen=True)
class ClientConfig:
    """Configuration of one client."""

    url: str
    key: str = field(default="", repr=False)
    timeout_s: float = 300.0
    retries: Retries = field(default_factory=Retries)
    budget: Budget = field(default_factory=Budget)
    split_documents: int = 1000
    concurrency: int = 4

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: the message names the wrong value.
        """
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{self.url} is not an http:// or https:// address")
        if not re.fullmatch("[!-~]*", self.key):  # httpx would quote the key in its own error message
            raise ValueError("the key holds a space, a line break or a non-ASCII letter, which no key does")
        if self.split_documents < 1 or self.concurrency < 1:
            raise ValueError("split_documents and concurrency must be at least 1")

    @property
    def base(self) -> str:
        """The address without a trailing slash."""
        return self.url.rstrip("/")

    def httpx_options(self, trust: Trust) -> dict[str, object]:
        """Return the arguments of `httpx.Client` and `httpx.AsyncClient`."""
        headers = {"Content-Type": "application/json", "User-Agent": f"reranking-client/{VERSION}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connections = max(100, self.concurrency)
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_S
        )
        # HTTP_PROXY, NO_PROXY and the like must not apply to a service on this machine.
        use_proxies = not is_loopback(urllib.parse.urlsplit(self.url).hostname or "")
        return {"headers": headers, "limits": limits, "verify": ssl_context(trust), "trust_env": use_proxies}

    def deadline(self, timeout_s: float | None, now: float) -> float:
        """Return when a call that begins `now` must end. `timeout_s` None: the client's own timeout."""
        return now + (self.timeout_s if timeout_s is None else timeout_s)

    def call_state(self, request_id: str, *, began: float, deadline: float) -> CallState:
        """Return the state of a call that begins now."""
        return CallState(
            base=self.base,
            request_id=request_id,
            retries=self.retries,
            budget=self.budget,
            began=began,
            deadline=deadline,
            draw=random.random,
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def ssl_context(trust: Trust) -> ssl.SSLContext:
    """Return an SSL context that trusts these certificates.

    Raises:
        OSError: the file does not exist, or holds no certificate.
    """
    if isinstance(trust, ssl.SSLContext):
        return trust
    context = ssl.create_default_context(cafile=trust)
    if trust is not None:
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # a server's own certificate is enough, without its issuer
    return context


def checked_request_id(given: str | None) -> str:
    """Return the given request id, or a new one.

    Raises:
        ValueError: the service would replace the given id.
    """
    if given is None:
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(given):
        raise ValueError("request_id: letters, digits, '.', '_', ':' and '-', 120 at most")
    return given


def part_ids(request_id: str, parts: int) -> list[str]:
    """Return the ids of the requests of one call: `id.1`, `id.2`, ... where there are several."""
    return [request_id] if parts == 1 else [f"{request_id}.{number}" for number in range(1, parts + 1)]


def request_headers(request_id: str, left_s: float) -> dict[str, str]:
    """Return the headers of one try: its id, and the seconds that the service may take."""
    service_s = left_s - min(DEADLINE_MARGIN_S, left_s / 10)
    return {"X-Request-Id": request_id, "X-Request-Timeout": f"{service_s:.3f}"}


def httpx_timeout(left_s: float) -> httpx.Timeout:
    """Return the timeouts of one try: no single wait is longer than `left_s`."""
    return httpx.Timeout(left_s, connect=min(CONNECT_S, left_s))


def no_reply(error: httpx.HTTPError) -> NoReply:
    """Return a short description of an error that httpx raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NoReply(f"its certificate is not trusted: {cause.verify_message}", untrusted=True)
        if isinstance(cause, OSError) and cause.strerror:
            return NoReply(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return NoReply("no connection in time" if isinstance(error, httpx.ConnectTimeout) else "no answer in time")
    return NoReply(" ".join(str(error).split()) or type(error).__name__)
