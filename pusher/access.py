"""Who may see what. PURE.

Without any keys everybody sees everything. With API keys, one is needed, and sees the requests that were made with it,
and everything where no key is an operator's: of `RERANK_OPERATOR_KEYS`, or marked in the key file. Operators see
everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.api_keys import KeyRing
from contracts.events import owner_of


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
    """The keys that are accepted.

    Args:
        keys: all that open the service.
        operators: those that open the pusher alone, and show everything.
    """

    def __init__(self, keys: KeyRing, operators: KeyRing) -> None:
        self._keys = keys
        self._operators = operators

    def viewer(self, presented: Iterable[str]) -> Viewer | None:
        """Who presents these keys; None is refused."""
        presented = list(presented)
        if found := self._operators.find(presented):
            return Viewer(owner_of(found[1]), operator=True)
        if found := self._keys.find(presented):
            return Viewer(owner_of(found[1]), operator=found[0].operator or not self._has_operators)
        if self._keys.guarded:
            return None
        # Without API keys no request has an owner, whatever key its caller sends.
        return Viewer("", operator=not self._has_operators)

    @property
    def _has_operators(self) -> bool:
        return self._operators.guarded or self._keys.has_operators
