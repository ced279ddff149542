"""What the service tells whoever watches it; by default nobody does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is, as far as watching it needs."""

    request_id: str
    dialect: str
    owner: str = ""
    """`contracts.events.owner_of` the caller's key; empty where no keys are asked for."""
    client: str = ""
    """Who shares the engine with others: the owner, or the address where there is none."""
    synthetic: bool = False
    """Our own programs try the service out: neither figures nor dashboards count it."""


class Headers(Protocol):
    """Headers of a request, looked up whatever the case of their names."""

    def get(self, name: str, /) -> str | None:
        """One of them."""


class Reply(NamedTuple):
    """An HTTP request that was answered, of any route."""

    method: str
    route: str
    """The template, never the path: there are few of them, whatever is asked for."""
    dialect: str
    """"none" where nothing is ranked."""
    status: int
    seconds: float
    """Since the worker heard of it."""
    request_id: str
    headers: Headers
    facts: Mapping[str, Any]
    """What the access line says: documents, tokens, times. Never texts."""
    error: RerankError | None = None
    """Why it failed."""
    owner: str = ""
    """As `Caller` has it."""
    watched: bool = False
    """Whether an `Observer` is told of it, too."""

    @property
    def ranked(self) -> bool:
        """Whether documents were ranked, and answered with success."""
        return self.status < 300 and "documents" in self.facts  # noqa: PLR2004 - HTTP's


OnReply = Callable[[Reply], None]
"""Called on the hub's thread before the reply is sent; must not block or take long."""


class Observer(Protocol):
    """Watches requests. Called on the hub's thread; must not raise, block or take long."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Requests were admitted together; `scored()` tells how many of their pairs are done. Returns a token."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """What was accepted has its outcomes, one a request."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Requests were not admitted."""


class NullObserver:
    """Nobody watches."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Nothing."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Nothing."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Nothing."""
