"""Decide when to try again. PURE: the caller passes the time and random numbers, and does the waiting.

Laws, for any sequence of outcomes:
1. A call makes at most `len(delays_s) + 1` tries, and none after its deadline.
2. Only lost connections and the statuses 429, 502, 503 and 504 are tried again.
3. No try is earlier than `Retry-After` says.
4. All calls of a budget together make at most `burst + share * calls` retries.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reranking_client.failures import (
    CallFailedError,
    OutOfTimeError,
    RefusedError,
    Try,
    UnreachableError,
    UntrustedError,
)

OK = 200

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses after which a retry may help. A rerank changes nothing, so repeating it is safe."""

MIN_TIME_S = 0.05
"""With less time left than this the call ends: timers fire a little early, and no answer could arrive in time."""

MAX_RETRY_AFTER_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply."""

    status: int
    headers: Mapping[str, str]
    """Found by lower-case names."""
    body: bytes


@dataclass(frozen=True, slots=True)
class NoReply:
    """No reply, or only a part of one."""

    reason: str
    untrusted: bool = False
    """The certificate is not trusted; a retry would not change that."""


Outcome = Reply | NoReply


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to retry, and how long to wait before each retry."""

    delays_s: tuple[float, ...] = (0.1, 0.4, 1.6, 6.4)
    """Longest wait before the second, third, ... try. The wait is a random share of the delay ("full jitter"),
    so that clients that failed together do not retry together."""


class Budget:
    """A token bucket of retries, filled by calls: retries add at most a fixed share to a failing service's load.

    Safe to share between clients and threads.
    """

    def __init__(self, share: float = 0.2, burst: float = 10.0) -> None:
        """Start full.

        Args:
            share: retries that one call adds.
            burst: most retries that the bucket holds; `math.inf` is no limit.
        """
        self._share = share
        self._burst = burst
        self._left = burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Add the share of one call."""
        with self._lock:
            self._left = min(self._burst, self._left + self._share)

    def spend(self) -> bool:
        """Take one retry; return False if none is left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class CallState:
    """One call and its tries. Decides what to do after each outcome."""

    def __init__(
        self,
        *,
        base: str,
        request_id: str,
        retries: Retries,
        budget: Budget,
        began: float,
        deadline: float,
        draw: Callable[[], float],
    ) -> None:
        """Begin a call.

        Args:
            base: the service's address, for messages.
            request_id: the id of the call, for messages.
            retries: how often to retry.
            budget: the client's budget of retries.
            began: the monotonic time now, in seconds.
            deadline: the monotonic time at which the call must end, in seconds.
            draw: returns a random number in 0..1.
        """
        self.request_id = request_id
        self._base = base
        self._retries = retries
        self._budget = budget
        self._began = began
        self._deadline = deadline
        self._draw = draw
        self._tries: list[Try] = []
        budget.earn()

    def left_s(self, now: float) -> float:
        """Return the seconds until the deadline.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        if self._deadline - now < MIN_TIME_S:
            raise self._deadline_error()
        return self._deadline - now

    def reset_tries(self) -> None:
        """Forget failed tries, because news arrived. For a stream that goes on after an answer."""
        self._tries.clear()

    def after(self, outcome: Outcome, now: float) -> float | None:
        """Record an outcome and decide what to do next.

        Returns:
            Seconds to wait before the next try; None if the outcome is the answer.

        Raises:
            CallFailedError: there is no further try. The error lists all tries.
        """
        if isinstance(outcome, Reply) and outcome.status == OK:
            return None
        self._tries.append(Try(_summary(outcome), now - self._began))
        if not _retryable(outcome):
            raise self._failure(outcome, now)
        if len(self._tries) > len(self._retries.delays_s):
            raise self._failure(outcome, now)
        wait_s = self._draw() * self._retries.delays_s[len(self._tries) - 1]
        if isinstance(outcome, Reply):
            wait_s += retry_after_s(outcome.headers)
        if now + wait_s > self._deadline - MIN_TIME_S:
            left_s = max(0.0, self._deadline - now)
            raise self._failure(outcome, now, f"the next try is due in {wait_s:.1f} s, and {left_s:.1f} s are left")
        if not self._budget.spend():
            raise self._failure(outcome, now, "the retry budget is spent")
        return wait_s

    def _failure(self, outcome: Outcome, now: float, why: str = "") -> CallFailedError:
        if isinstance(outcome, NoReply):
            if self._deadline - now < MIN_TIME_S:
                return self._deadline_error()
            kind = UntrustedError if outcome.untrusted else UnreachableError
            message = f"{self._base} can't be reached ({outcome.reason})"
            return kind(message, tries=self._tries, why=why, request_id=self.request_id)
        code, message = error_in(outcome)
        refusal = OutOfTimeError if code == "deadline_exceeded" else RefusedError
        return refusal(
            f"{self._base} says {outcome.status}: {message}",
            tries=self._tries,
            why=why,
            status=outcome.status,
            code=code,
            request_id=self.request_id,
        )

    def _deadline_error(self) -> OutOfTimeError:
        message = f"{self._base} gave no answer in {round(self._deadline - self._began, 1):g} s"
        return OutOfTimeError(message, tries=self._tries, request_id=self.request_id)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for; 0 if it is absent or not valid.

    A date is compared with the reply's own `Date`, so that differences between clocks don't matter.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= MAX_RETRY_AFTER_DIGITS:
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        until = email.utils.parsedate_to_datetime(value)
        return max(0.0, (until - email.utils.parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    return 0.0


def error_in(reply: Reply) -> tuple[str, str]:
    """Return the stable code and the message of an error reply, in any of the service's error formats.

    The code is empty, and the message general, if the body has neither.
    """
    if location := reply.headers.get("location"):
        return "", f"the service is at {location}"
    with contextlib.suppress(ValueError, RecursionError):
        body: Any = json.loads(reply.body)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            code = body["error"].get("code")
            if not isinstance(
                code, str
            ):  # the "documents" dialects have the HTTP status here, and the code one level up
                code = body.get("code")
            return code if isinstance(code, str) else "", " ".join(str(body["error"].get("message", "")).split())
    return "", "no reason given"


def _retryable(outcome: Outcome) -> bool:
    return outcome.status in RETRIED_STATUSES if isinstance(outcome, Reply) else not outcome.untrusted


def _summary(outcome: Outcome) -> str:
    return str(outcome.status) if isinstance(outcome, Reply) else outcome.reason
