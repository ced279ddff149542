"""What a caller gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Result:
    """One ranked document."""

    index: int
    """Its place in the list that was given."""
    score: float
    """0..1, higher is more relevant; the model's own number with `raw_scores`."""
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As given; it never travelled."""
    truncated: bool = False
    """The text was longer than the model reads."""
    span: tuple[int, int] | None = None
    """Characters of the window that counted, of a document that was divided."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents of one question, best first."""

    query: str
    results: tuple[Result, ...]
    model: str
    latency_ms: float
    """As the service tells it; of a list that was split, the longest part's."""
    request_id: str = ""
    """Under which the service logged it; the parts of a split list have `.1`, `.2`, ... behind it."""
    degraded: bool = False
    """The model failed, and words were compared instead. Of a split list: each part by itself."""
    warnings: tuple[str, ...] = ()
    """What of the request had no effect."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is."""

    request_id: str
    status: str
    """`running`; or how it ended: `ok`, `shed`, `expired`, `cancelled`, `lost`, an error's code; `unknown`: nobody
    heard of it for a minute."""
    scored: int = 0
    """Documents."""
    pairs: int = 0
    """All of its documents."""

    @property
    def ended(self) -> bool:
        """Whether this is the last word."""
        return self.status != RUNNING
