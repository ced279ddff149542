"""Values that the clients return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Result:
    """One ranked document."""

    index: int
    """Index of the document in the list that was given."""
    score: float
    """0..1, higher is more relevant; with `raw_scores` the model's own score."""
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The metadata that was given; it was not sent to the service."""
    truncated: bool = False
    """The text was longer than the model's limit, so its end was not scored."""
    span: tuple[int, int] | None = None
    """Begin and end, in characters, of the best window of a document that was scored in windows."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents of one question, best first."""

    query: str
    results: tuple[Result, ...]
    model: str
    latency_ms: float
    """Milliseconds, measured by the service. Of a list that was split: the slowest part."""
    request_id: str = ""
    """The id in the service's logs. The parts of a list that was split add `.1`, `.2`, ... to it."""
    degraded: bool = False
    """The model failed, and BM25 scored instead. In a list that was split, the scores of different parts can't be
    compared then."""
    warnings: tuple[str, ...] = ()
    """Fields of the request that had no effect."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a request."""

    request_id: str
    status: str
    """`running`; at the end `ok`, `shed`, `expired`, `cancelled`, `lost` or an error code. `unknown`: the service has
    no news of the request for a minute."""
    scored: int = 0
    """Documents that have a score."""
    pairs: int = 0
    """All documents of the request."""

    @property
    def ended(self) -> bool:
        """Whether the request has ended."""
        return self.status != RUNNING
