"""One row of the table of faults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Row:
    """What clients saw while one kind of fault went on."""

    fault: str
    """What was done, in a few words."""
    requests: int = 0
    """Requests that were sent by well-behaved clients."""
    refused: int = 0
    """Replies that refuse and say why: 429 or 503 with `Retry-After`, or another status that the fault calls for."""
    cut: int = 0
    """Requests cut by a kill that was done to them, where the documentation says that this can happen."""
    lost: int = 0
    """Requests without a reply that is right, refused with a reason, or counted as cut."""
    wrong: int = 0
    """Replies with wrong scores, a wrong order or another request's content."""
    longest_s: float = 0.0
    """Longest wait for a reply, in seconds."""
    note: str = ""
    """What else was seen."""
    times: int = 1
    """How often it was done."""
    broken: str = ""
    """What was not whole again afterwards, or failed an operator."""
    before: str = ""
    """What was seen before it was mended."""

    @property
    def holds(self) -> bool:
        """Return whether nothing was lost, nothing was wrong, and the service was whole again."""
        return not self.lost and not self.wrong and not self.broken
