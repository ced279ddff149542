"""Observers of requests and replies, and what they get."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, as far as observers need it."""

    request_id: str
    dialect: str
    owner: str = ""
    """`contracts.events.owner_of` the caller's key; empty where no keys are asked for."""
    client: str = ""
    """The unit of fair sharing: the owner, or the address where there is none."""
    synthetic: bool = False
    """A test call of our own programs: neither metrics nor dashboards count it."""


class Headers(Protocol):
    """Headers of a request, looked up whatever the case of their names."""

    def get(self, name: str, /) -> str | None:
        """Return one of them."""


class Reply(NamedTuple):
    """An HTTP request that was answered, of any route."""

    method: str
    route: str
    """The template, never the path: there are few of them, whatever is asked for."""
    dialect: str
    """"none" where nothing is ranked."""
    status: int
    seconds: float
    """Since the request arrived at the worker."""
    request_id: str
    headers: Headers
    facts: Mapping[str, Any]
    """The fields of the access line: documents, tokens, times. Never texts."""
    error: RerankError | None = None
    """Why it failed."""
    owner: str = ""
    """See `Caller`."""
    watched: bool = False
    """Whether an `Observer` gets the request, too."""

    @property
    def ranked(self) -> bool:
        """Whether documents were ranked and answered with success."""
        return self.status < 300 and "documents" in self.facts  # noqa: PLR2004 - HTTP's


OnReply = Callable[[Reply], None]
"""Called on the hub's thread before the reply is sent; must not block or take long."""


class Observer(Protocol):
    """Watches requests. Called on the hub's thread; must not raise, block or take long."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Note requests that were admitted together; return a token for `ended`.

        Args:
            caller: of them all.
            requests: that were admitted.
            scored: returns how many of their pairs are scored by now.
        """

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Note the outcomes of accepted requests, one a request."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Note requests that were not admitted."""


class NullObserver:
    """An observer that does nothing."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Do nothing."""

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Do nothing."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Do nothing."""


class Guard:
    """Calls observers, and keeps what they raise from the caller."""

    def __init__(self, name: str) -> None:
        """Begin; `name` says in the log who failed."""
        self._name = name
        self.failures = 0

    def __call__(self, observe: Callable[..., object], *arguments: object) -> object:
        """Return what an observer returns; None if it fails."""
        try:
            return observe(*arguments)
        except Exception:
            self.failures += 1
            if self.failures == 1:  # the first says what is wrong; thousands would only fill the log
                log.exception("%s failed; requests go on without it", self._name)
            return None


class SafeObserver(Guard):
    """Calls an observer, and keeps what it raises from the caller."""

    def __init__(self, observer: Observer) -> None:
        super().__init__("an observer")
        self._observer = observer

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """See `Observer`."""
        return self(self._observer.accepted, caller, requests, scored)

    def ended(self, token: object, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """See `Observer`."""
        self(self._observer.ended, token, outcomes)

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """See `Observer`."""
        self(self._observer.refused, caller, requests, error)
