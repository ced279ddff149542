"""Decides what a reply is: right, a refusal with a reason, cut by a kill, lost or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

REFUSALS = frozenset({429, 503})
"""A client may try again; `Retry-After` says when."""

TOO_LATE = 504


class Verdict(StrEnum):
    RIGHT = "right"
    REFUSED = "refused"
    CUT = "cut"
    LOST = "lost"
    WRONG = "wrong"


@dataclass(frozen=True)
class Excuse:
    """What a fault may do to requests, as docs/reliability.md says."""

    cut: bool = False
    """Connections are refused, or end without a whole reply."""
    large: frozenset[int] = frozenset()
    """Statuses that bodies or replies above a megabyte may get, with a reason, beside the usual refusals."""
    followers: bool = False
    """A follower of progress may never hear the end."""

    def __or__(self, other: Excuse) -> Excuse:
        return Excuse(self.cut or other.cut, self.large | other.large, self.followers or other.followers)


NO_EXCUSE = Excuse()


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RefusedInPartError(Exception):
    """Items of a batch were refused, each with a reason."""


def judge(
    got: Reply | Exception, right: Callable[[bytes], str], excuse: Excuse = NO_EXCUSE, *, large: bool = False
) -> tuple[Verdict, str]:
    """Return the verdict on what a request got, and the reason where it is not right.

    Args:
        got: the reply, or what was raised instead of one.
        right: tells what is wrong with the body of a 200, in words; empty where nothing is.
        excuse: what the faults that overlapped the request may do to it.
        large: whether its body or its reply is above a megabyte.
    """
    if isinstance(got, TimeoutError):
        return Verdict.LOST, "no reply"  # a hang is excused by nothing
    if isinstance(got, Exception):
        return (Verdict.CUT if excuse.cut else Verdict.LOST), f"{type(got).__name__}: {got}"
    if got.status == 200:
        return _judge_success(got.body, right)
    return _judge_refusal(got, excuse.large if large else frozenset())


def _judge_success(body: bytes, right: Callable[[bytes], str]) -> tuple[Verdict, str]:
    try:
        problem = right(body)
    except RefusedInPartError as error:
        return Verdict.REFUSED, str(error)
    except (ValueError, LookupError, TypeError) as error:
        problem = f"the body can't be read ({type(error).__name__}: {error}): {body[:200]!r}"
    return (Verdict.WRONG, problem) if problem else (Verdict.RIGHT, "")


def _judge_refusal(got: Reply, called_for: frozenset[int]) -> tuple[Verdict, str]:
    words = f"status {got.status}: {got.body[:200]!r}"
    if got.status not in REFUSALS | called_for | {TOO_LATE}:
        return Verdict.LOST, words
    if not _has_reason(got.body):
        return Verdict.LOST, f"{words} has no reason"
    if got.status in REFUSALS and not _says_when(got.headers):
        return Verdict.LOST, f"{words} has no Retry-After"
    return Verdict.REFUSED, words


def _has_reason(body: bytes) -> bool:
    try:
        said = json.loads(body)
    except ValueError:
        return False
    return isinstance(said, dict) and bool(said)


def _says_when(headers: Mapping[str, str]) -> bool:
    said = headers.get("Retry-After", "")
    return said.isdigit() and int(said) > 0
