"""When to try again. PURE: clocks, dice and waiting are the callers'.

Laws, for any sequence of outcomes:
1. A call makes at most one try more than there are delays, and none after its deadline.
2. Only lost connections, 429, 502, 503 and 504 are tried again.
3. No try comes earlier than `Retry-After` says.
4. A budget's calls, all together, are repeated at most `burst + share * calls` times.
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

TRIED_AGAIN = frozenset({429, 502, 503, 504})
"""Nothing was done, or what was done is cached. A rerank changes nothing, so repeating it is safe."""

NO_TIME_S = 0.05
"""With less left the time is over: timers fire a little early, and no answer would be in time."""

MOST_RETRY_AFTER_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By lower-case names, or however the mapping finds them."""
    body: bytes


@dataclass(frozen=True, slots=True)
class NoReply:
    """Nothing came back, or not all of it."""

    why: str
    untrusted: bool = False
    """The certificate is not trusted, and will not be next time."""


Outcome = Reply | NoReply


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long to wait in between."""

    delays_s: tuple[float, ...] = (0.1, 0.4, 1.6, 6.4)
    """Longest wait before the second try, the third, ...: each is a random share of its delay ("full jitter"), so that
    those who failed together don't come back together."""


class Budget:
    """A token bucket of retries. Calls fill it, retries take from it: to a sick service's load a fleet adds a share.

    May be shared by several clients, of several threads.
    """

    def __init__(self, share: float = 0.2, burst: float = 10.0) -> None:
        """Start full.

        Args:
            share: retries a call earns.
            burst: most that are kept; `math.inf` is no limit at all.
        """
        self._share = share
        self._burst = burst
        self._left = burst
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call begins."""
        with self._lock:
            self._left = min(self._burst, self._left + self._share)

    def spend(self) -> bool:
        """Take a retry; False if there is none."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class CallState:
    """One call and its tries: says what to do after each outcome."""

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
        """A call begins.

        Args:
            base: the service's address, for messages.
            request_id: of the call, for messages.
            retries: how often.
            budget: of the client.
            began: now.
            deadline: when an answer is worth nothing any more; monotonic, as all instants here.
            draw: a random number in 0..1.
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
        """Seconds until the deadline.

        Raises:
            OutOfTimeError: there are none.
        """
        if self._deadline - now < NO_TIME_S:
            raise self._late()
        return self._deadline - now

    def heard(self) -> None:
        """There are news, so what failed before is forgotten: for calls that go on after an answer."""
        self._tries.clear()

    def after(self, outcome: Outcome, now: float) -> float | None:
        """What to do now.

        Returns:
            Seconds to wait before the next try; None: this is the answer.

        Raises:
            CallFailedError: nothing more; the error tells of all tries.
        """
        if isinstance(outcome, Reply) and outcome.status == OK:
            return None
        self._tries.append(Try(_in_short(outcome), now - self._began))
        if not _worth_another(outcome):
            raise self._failure(outcome, now)
        if len(self._tries) > len(self._retries.delays_s):
            raise self._failure(outcome, now)
        wait_s = self._draw() * self._retries.delays_s[len(self._tries) - 1]
        if isinstance(outcome, Reply):
            wait_s += retry_after_s(outcome.headers)
        if now + wait_s > self._deadline - NO_TIME_S:
            left_s = max(0.0, self._deadline - now)
            raise self._failure(outcome, now, f"the next try is due in {wait_s:.1f} s, and {left_s:.1f} s are left")
        if not self._budget.spend():
            raise self._failure(outcome, now, "the retry budget is spent")
        return wait_s

    def _failure(self, outcome: Outcome, now: float, why: str = "") -> CallFailedError:
        if isinstance(outcome, NoReply):
            if self._deadline - now < NO_TIME_S:
                return self._late()
            kind = UntrustedError if outcome.untrusted else UnreachableError
            message = f"{self._base} can't be reached ({outcome.why})"
            return kind(message, tries=self._tries, why=why, request_id=self.request_id)
        code, message = told_in(outcome)
        refusal = OutOfTimeError if code == "deadline_exceeded" else RefusedError
        return refusal(
            f"{self._base} says {outcome.status}: {message}",
            tries=self._tries,
            why=why,
            status=outcome.status,
            code=code,
            request_id=self.request_id,
        )

    def _late(self) -> OutOfTimeError:
        message = f"{self._base} gave no answer in {round(self._deadline - self._began, 1):g} s"
        return OutOfTimeError(message, tries=self._tries, request_id=self.request_id)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` asks for; 0 where it is absent or no good.

    A date counts from the reply's own `Date`: whose clock is right doesn't matter then.
    """
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit() and len(told) <= MOST_RETRY_AFTER_DIGITS:
        return float(told)
    with contextlib.suppress(ValueError, TypeError):
        until = email.utils.parsedate_to_datetime(told)
        return max(0.0, (until - email.utils.parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    return 0.0


def told_in(reply: Reply) -> tuple[str, str]:
    """The stable code and the message of an error, in whichever form it came; empty and a general word if in none."""
    if location := reply.headers.get("location"):
        return "", f"the service is at {location}"
    with contextlib.suppress(ValueError, RecursionError):
        body: Any = json.loads(reply.body)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            code = body["error"].get("code")
            if not isinstance(code, str):  # the documents family has the status there, and the code at the top
                code = body.get("code")
            return code if isinstance(code, str) else "", " ".join(str(body["error"].get("message", "")).split())
    return "", "no reason given"


def _worth_another(outcome: Outcome) -> bool:
    return outcome.status in TRIED_AGAIN if isinstance(outcome, Reply) else not outcome.untrusted


def _in_short(outcome: Outcome) -> str:
    return str(outcome.status) if isinstance(outcome, Reply) else outcome.why
