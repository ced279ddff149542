"""Errors of calls. Each message lists the tries in one line, and quotes neither queries nor documents."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a call: a request that was sent, or could not be sent."""

    outcome: str
    """The status of the reply, or what went wrong."""
    after_s: float
    """Seconds from the begin of the call to this outcome."""


class CallFailedError(Exception):
    """A call failed; the base of all errors here."""

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
        """Why there was no further try; empty if the tries were used up or a retry could not help."""
        self.status = status
        """HTTP status of the last reply; None if there was no reply."""
        self.code = code
        """The service's error code, stable across releases; empty if the reply had none."""
        self.request_id = request_id
        """The id under which the service logged the request."""

    def __str__(self) -> str:
        """Return the message, the tries and the request id in one line."""
        sentences = [self.message]
        if len(self.tries) > 1:
            counts = collections.Counter(each.outcome for each in self.tries)
            outcomes = ", ".join(f"{count} x {outcome}" for outcome, count in counts.items())
            sentences.append(f"{len(self.tries)} tries in {self.tries[-1].after_s:.1f} s: {outcomes}")
        sentences += [self.why] if self.why else []
        sentences += [f"request id {self.request_id}"] if self.request_id else []
        return "; ".join(sentences)


class RefusedError(CallFailedError):
    """The service answered with an error; `status` and `code` say which."""


class UnreachableError(CallFailedError):
    """There was no answer: nothing listens at the address, or the connection broke."""


class UntrustedError(UnreachableError):
    """The server's certificate is not trusted. There was no further try."""


class OutOfTimeError(CallFailedError):
    """The deadline passed before there was an answer."""


class BadReplyError(CallFailedError):
    """The answer can't be used.

    Another program answered, not a reranking service; or the parts of a list were scored by different models.
    """
