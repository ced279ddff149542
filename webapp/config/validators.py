"""Checks of settings for keys, TLS, origins and addresses: contradictions, and values that can't work. PURE."""

from __future__ import annotations

import ipaddress
import re
import unicodedata

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?")


_STACK = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


def listed(values: str) -> list[str]:
    """Return the entries of a comma-separated text."""
    return [value.strip() for value in values.split(",") if value.strip()]


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


def check_networks(networks: str) -> str:
    """Return the comma-separated addresses and networks, checked.

    Raises:
        ValueError: one of them is neither.
    """
    for network in listed(networks):
        ipaddress.ip_network(network, strict=False)
    return networks
