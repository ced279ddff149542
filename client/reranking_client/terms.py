"""On what terms a client calls: where, with which key, for how long; and how httpx is told so."""

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
"""Longest wait for a connection. Beyond, another try is better than patience."""

SILENCE_S = 25.0
"""Longest silence of a stream of events, in which something comes every ten seconds."""

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept: less than nginx does (75 s), so that we hang up first."""

MARGIN_S = 0.25
"""How much less time the service is told, at most, so that its own word on a timeout still arrives."""

Trust = str | Path | ssl.SSLContext | None
"""A file with the certificates to trust, a context of your own, or None: those of the system."""

_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,120}")


@dataclass(frozen=True)
class ClientConfig:
    """Those of one client."""

    url: str
    key: str = field(default="", repr=False)
    timeout_s: float = 300.0
    retries: Retries = field(default_factory=Retries)
    budget: Budget = field(default_factory=Budget)
    split_documents: int = 1000
    concurrency: int = 4

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: says what is wrong.
        """
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{self.url} is no http:// or https:// address")
        if not re.fullmatch("[!-~]*", self.key):  # the library below would quote it when it refuses
            raise ValueError("the key holds something that no key has: a space, a line break or a letter beyond ASCII")
        if self.split_documents < 1 or self.concurrency < 1:
            raise ValueError("split_documents and concurrency must be at least 1")

    @property
    def base(self) -> str:
        """The address, without the slash at its end."""
        return self.url.rstrip("/")

    def settings(self, trust: Trust) -> dict[str, object]:
        """How both kinds of httpx client are made."""
        headers = {"Content-Type": "application/json", "User-Agent": f"reranking-client/{VERSION}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connections = max(100, self.concurrency)
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_S
        )
        # HTTP_PROXY, NO_PROXY and the like are for other machines.
        proxies = not is_loopback(urllib.parse.urlsplit(self.url).hostname or "")
        return {"headers": headers, "limits": limits, "verify": context_of(trust), "trust_env": proxies}

    def deadline(self, timeout_s: float | None, now: float) -> float:
        """Of a call that begins now and has so much time, or the usual."""
        return now + (self.timeout_s if timeout_s is None else timeout_s)

    def effort(self, request_id: str, *, began: float, deadline: float) -> CallState:
        """A call begins."""
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


def context_of(trust: Trust) -> ssl.SSLContext:
    """Whom to trust.

    Raises:
        OSError: the file is not there, or holds no certificate.
    """
    if isinstance(trust, ssl.SSLContext):
        return trust
    context = ssl.create_default_context(cafile=trust)
    if trust is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the service's own certificate will do
    return context


def request_id_of(given: str | None) -> str:
    """An id that the service will keep.

    Raises:
        ValueError: the given one it would replace.
    """
    if given is None:
        return uuid.uuid4().hex
    if not _USABLE_ID.fullmatch(given):
        raise ValueError("request_id: letters, digits, '.', '_', ':' and '-', 120 at most")
    return given


def names_of(request_id: str, parts: int) -> list[str]:
    """Ids of the requests of one call."""
    return [request_id] if parts == 1 else [f"{request_id}.{number}" for number in range(1, parts + 1)]


def headers_of(request_id: str, left_s: float) -> dict[str, str]:
    """Of one try: its id, and how long an answer is waited for."""
    told_s = left_s - min(MARGIN_S, left_s / 10)
    return {"X-Request-Id": request_id, "X-Request-Timeout": f"{told_s:.3f}"}


def timeout_of(left_s: float) -> httpx.Timeout:
    """Of one try: each of its waits ends by then."""
    return httpx.Timeout(left_s, connect=min(CONNECT_S, left_s))


def no_reply(error: httpx.HTTPError) -> NoReply:
    """What httpx raised, in few words."""
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
