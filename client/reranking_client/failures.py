"""Every way a call can fail. Each says what was tried, in one line, and quotes neither queries nor documents."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Try:
    """One request that was sent, or was to be."""

    said: str
    """What came of it, in words."""
    after_s: float
    """When that was known, since the call began."""


class CallFailedError(Exception):
    """A call that brought no answer."""

    def __init__(
        self,
        message: str,
        *,
        tries: Sequence[Try] = (),
        why: str = "",
        status: int | None = None,
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.tries = tuple(tries)
        self.why = why
        """Why there was no further try, where it is not plain."""
        self.status = status
        """Of the last reply, if there was one."""
        self.code = code
        """The service's word for what went wrong, stable across releases; empty if it said none."""
        self.request_id = request_id
        """To find the request in the service's logs."""

    def __str__(self) -> str:
        """All of it, in one line."""
        told = [self.message]
        if len(self.tries) > 1:
            said = collections.Counter(each.said for each in self.tries)
            each = ", ".join(f"{count} x {what}" for what, count in said.items())
            told.append(f"{len(self.tries)} tries in {self.tries[-1].after_s:.1f} s: {each}")
        told += [self.why] if self.why else []
        told += [f"request id {self.request_id}"] if self.request_id else []
        return "; ".join(told)


class RefusedError(CallFailedError):
    """The service answered with an error; `status` and `code` say which."""


class UnreachableError(CallFailedError):
    """No answer came: nobody listens, or the connection broke."""


class UntrustedError(UnreachableError):
    """Whoever listens shows a certificate that is not trusted. No other try was made."""


class OutOfTimeError(CallFailedError):
    """The call's time was over before there was an answer."""


class BadReplyError(CallFailedError):
    """An answer came that can't be used.

    It is none of this service's, since something else listens there; or parts of a list came from different models.
    """
