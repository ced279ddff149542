"""What the service tells whoever watches it; by default nobody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from webapp.errors import RerankError
from webapp.types import RerankRequest, RerankResult


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, as far as watching it needs."""

    request_id: str
    dialect: str
    owner: str = ""
    """`pusher.events.owner_of` the caller's key; empty where no keys are asked for."""


class Observer(Protocol):
    """Watches requests. Called on the hub's thread; must not raise, block or take long."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Requests were admitted together; `scored()` tells how many of their pairs are done. Returns a token."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """What was accepted has its outcomes, one a request."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Requests were not admitted."""


class Silent:
    """Nobody watches."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Nothing."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Nothing."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Nothing."""
