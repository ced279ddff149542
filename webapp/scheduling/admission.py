"""Who may come in. Decided before any work is done, for a request as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from webapp.errors import OverloadedError


class Admission:
    """Counts requests at work in this process; called on the hub's thread only.

    The limit lies below gunicorn's `worker_connections`: a full connection pool would hang new clients silently,
    health checks among them, where this answers at once.
    """

    def __init__(self, *, max_ongoing_requests: int) -> None:
        self.max_ongoing_requests = max_ongoing_requests
        self.ongoing = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place for the length of a request.

        Raises:
            OverloadedError: every place is taken.
        """
        if self.ongoing >= self.max_ongoing_requests:
            raise OverloadedError(
                f"{self.ongoing} requests are at work, the limit is {self.max_ongoing_requests}", retry_after_s=1
            )
        self.ongoing += 1
        try:
            yield
        finally:
            self.ongoing -= 1
