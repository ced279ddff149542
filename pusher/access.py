"""Who may see what. PURE.

Without any keys everybody sees everything. With `RERANK_API_KEYS`, a key is needed, and sees the requests that it made
itself, and everything where no `RERANK_OPERATOR_KEYS` say otherwise. Operator keys see everything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from pusher.events import owner_of


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who was let in."""

    owner: str
    """Sees the requests of this owner."""
    operator: bool
    """Sees all requests, and the overview."""

    def may_see(self, owner: str) -> bool:
        """Whether a request of this owner is theirs to see."""
        return self.operator or owner == self.owner


class Access:
    """The keys that are accepted."""

    def __init__(self, *, api_keys: Iterable[str], operator_keys: Iterable[str]) -> None:
        self._api = [_digest(key) for key in api_keys]
        self._operators = [_digest(key) for key in operator_keys]

    def viewer(self, key: str) -> Viewer | None:
        """Who presents this key (empty: none); None is refused."""
        owner = owner_of(key) if key else ""
        digest = _digest(key)
        if _among(digest, self._operators):
            return Viewer(owner, operator=True)
        if _among(digest, self._api) or not self._api:
            return Viewer(owner, operator=not self._operators)
        return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _among(digest: bytes, known: list[bytes]) -> bool:
    """Compares with all of them, in constant time: how long it takes tells nothing."""
    found = False
    for each in known:
        found |= hmac.compare_digest(digest, each)
    return found
