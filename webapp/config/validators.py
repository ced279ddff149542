"""Checks of settings for keys, TLS, origins and addresses: contradictions, and values that can't work. PURE."""

from __future__ import annotations

import ipaddress
import re
import unicodedata

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?")


_HOST_PORT = r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"

_STACK = re.compile(rf"https?://{_HOST_PORT}")

_PUSHER = re.compile(rf"http://{_HOST_PORT}")

_EVENTS = re.compile(rf"tcp://{_HOST_PORT}")

LEAST_EVENTS_KEY_CHARS = 32
"""128 bits in hex digits. Its hash is a fast one, so a key that people make up could be guessed."""


def listed(values: str) -> list[str]:
    """Return the entries of a comma-separated text."""
    return [value.strip() for value in values.split(",") if value.strip()]


def is_address(host: str) -> bool:
    """Return whether a host is an IP address that nginx takes, which is one without a zone (fe80::1%eth0)."""
    try:
        return bool(ipaddress.ip_address(host)) and "%" not in host
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_path(path: str) -> str:
    """Return the path, checked.

    Raises:
        ValueError: a character in it can't be quoted in nginx' or supervisor's configuration.
    """
    for character in path:
        # Controls, and bytes that are no UTF-8.
        if character in '"\\$%' or unicodedata.category(character) in {"Cc", "Cs"}:
            raise ValueError(f"{character!r} can't stand in a path that nginx and supervisor are given; choose another")
    return path


def check_tls(tls: str, cert: str, key: str, hsts_s: int, ports: tuple[int, int]) -> None:
    """Refuse settings of TLS that contradict each other.

    Raises:
        ValueError: they do.
    """
    port, plain_port = ports
    if bool(cert) != bool(key):
        raise ValueError("RERANK_TLS_CERT and RERANK_TLS_KEY belong together; set both or none")
    if tls and cert:
        raise ValueError("RERANK_TLS=self-signed contradicts RERANK_TLS_CERT; drop one of them")
    if not (tls or cert) and (hsts_s or plain_port):
        raise ValueError("RERANK_HSTS_S and RERANK_PLAIN_PORT need RERANK_TLS_CERT or RERANK_TLS")
    if plain_port == port:
        raise ValueError(f"RERANK_PLAIN_PORT and RERANK_PORT are both {port}; choose another")


def check_secrets(*, api_keys: str, redis_url: str) -> None:
    """Refuse secrets that can't work; the message shows none.

    Raises:
        ValueError: one of them can't.
    """
    if api_keys and not api_keys.replace(",", " ").strip():
        raise ValueError("RERANK_API_KEYS holds no key, which would open the service to all; unset it, or put one in")
    if redis_url and not redis_url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("RERANK_REDIS_URL must begin with redis://, rediss:// or unix://")


def check_origins(origins: str) -> str:
    """Return the comma-separated origins, checked.

    Raises:
        ValueError: one of them is not an origin.
    """
    for origin in listed(origins):
        if not _ORIGIN.fullmatch(origin):
            raise ValueError("an origin is scheme://host[:port], without a path; '*' is not taken, list them")
    return origins


def check_stacks(stacks: str, trusted: str) -> None:
    """Refuse stacks that can't be reached, or not safely.

    Raises:
        ValueError: one of them is not an address, they differ in their scheme, or https lacks certificates to trust.
    """
    addresses = listed(stacks)
    for address in addresses:
        if not _STACK.fullmatch(address):
            raise ValueError(f"RERANK_STACKS: {address!r} is not http://host:port or https://host:port")
    schemes = {address.partition(":")[0] for address in addresses}
    if len(schemes) > 1:
        raise ValueError("RERANK_STACKS: all of them speak http, or all of them https")
    if (schemes == {"https"}) != bool(trusted):
        raise ValueError("RERANK_STACKS_CA belongs to https:// addresses in RERANK_STACKS; set both or none")


def check_pusher_url(url: str) -> str:
    """Return the address of a pusher elsewhere, checked.

    Raises:
        ValueError: it is none.
    """
    if url and not _PUSHER.fullmatch(url):
        raise ValueError("the address of a pusher is http://host:port, without a path")
    return url


def check_events(address: str, key: str) -> None:
    """Refuse to send events to an address, or to hear them there, where others could send false ones.

    Only programs of this machine reach a loopback address, so events may go there without a key.

    Args:
        address: of ZeroMQ; empty or ipc://: a Unix socket, which needs no key.
        key: RERANK_EVENTS_KEY. The message does not quote it.

    Raises:
        ValueError: the address is none, or needs a key; or the key is too short.
    """
    if key and len(key) < LEAST_EVENTS_KEY_CHARS:
        least = f"has less than {LEAST_EVENTS_KEY_CHARS} characters"
        raise ValueError(f"RERANK_EVENTS_KEY {least}; make one: openssl rand -hex 32")
    if not address or address.startswith("ipc://"):
        return
    found = _EVENTS.fullmatch(address)
    if not found:
        raise ValueError(f"{address!r} is not tcp://host:port")
    if not key and not is_loopback(found[1].strip("[]")):
        unsafe = f"without RERANK_EVENTS_KEY, all that reach {address} could send false events"
        raise ValueError(f"{unsafe}; give the same key (openssl rand -hex 32) to the pusher and to all that send to it")


def check_networks(networks: str) -> str:
    """Return the comma-separated addresses and networks, checked.

    Raises:
        ValueError: one of them is neither.
    """
    for network in listed(networks):
        ipaddress.ip_network(network, strict=False)
    return networks
