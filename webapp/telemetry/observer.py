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
    """Whether observers were told of the request itself, too."""

    @property
    def ranked(self) -> bool:
        """Whether documents were ranked and answered with success."""
        return self.status < 300 and "documents" in self.facts  # noqa: PLR2004 - HTTP's


class Observer:
    """Watches requests and replies; by itself it does nothing. Called on the hub: may not raise or block."""

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> object:
        """Note requests that were admitted together; return a token for `ended`.

        Args:
            caller: of them all.
            requests: that were admitted.
            scored: returns how many of their pairs are scored by now.
        """

    def ended(self, token: Any, outcomes: Sequence[RerankResult | RerankError]) -> None:
        """Note the outcomes of accepted requests, one a request."""

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """Note requests that were not admitted."""

    def replied(self, reply: Reply) -> None:
        """Note a reply of any route, before it is sent."""


class Observers(Observer):
    """Calls several observers, and keeps what they raise from the caller."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._failed: set[str] = set()

    def accepted(self, caller: Caller, requests: Sequence[RerankRequest], scored: Callable[[], int]) -> list[object]:
        """Return the token of each; see `Observer`."""
        return [self._guard(each.accepted, caller, requests, scored) for each in self._observers]

    def ended(self, token: list[object], outcomes: Sequence[RerankResult | RerankError]) -> None:
        """See `Observer`."""
        for each, own in zip(self._observers, token, strict=True):
            self._guard(each.ended, own, outcomes)

    def refused(self, caller: Caller, requests: Sequence[RerankRequest], error: RerankError) -> None:
        """See `Observer`."""
        for each in self._observers:
            self._guard(each.refused, caller, requests, error)

    def replied(self, reply: Reply) -> None:
        """See `Observer`."""
        for each in self._observers:
            self._guard(each.replied, reply)

    def _guard(self, call: Callable[..., object], *arguments: object) -> object:
        try:
            return call(*arguments)
        except Exception:
            if call.__qualname__ not in self._failed:  # the first says what is wrong; thousands would fill the log
                self._failed.add(call.__qualname__)
                log.exception("an observer failed; requests go on without it")
            return None
