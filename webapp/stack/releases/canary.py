"""How each color answers its clients, by a log of nginx; and the judgement whether the new color is as good."""

from __future__ import annotations

import math
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from webapp.domain.concurrency import SteadyTime
from webapp.domain.errors import SetupError
from webapp.stack.nginx.traffic_split import shares_for
from webapp.stack.releases.state import other

LOG = "traffic.log"
"""File in the run directory. nginx opens it once, and keeps it open."""

SWITCH = "comparing"
"""File beside it: nginx writes to the log while this file exists. It is a link to a file in /proc of the process that
compares, so the log stops when that process is killed."""

FEWEST = 20
"""Fewer requests than this say nothing about latency."""

MORE_FAILURES = 0.01
"""The new color's share of failures may be higher by this much: one failure in hundreds decides nothing."""

FEWEST_FAILURES = 2
"""Fewer failures than this decide nothing."""

UNREACHED = 0.1
"""The old color may have to answer this share of the new color's requests."""

SLOWER_MEDIAN, SLOWER_MEDIAN_MS = 1.5, 20.0
SLOWER_P95, SLOWER_P95_MS = 2.0, 50.0
"""The new color's latency may be the old one's times the factor, plus the milliseconds."""

FEWEST_SLOW = 5
"""Fewer slow requests than this decide nothing: of 21 requests, the slowest two are the 95th percentile, and one pause
of the machine makes two."""

_LINE = re.compile(r"([\d.]+) ([\d.]+) webapp_(\d) (\S+) (\d{3}) (.+)")
"""End in unix time, seconds, share, color, status, seconds of each try; `-` where there is none. See nginx.conf.j2."""

_SERVER_ERROR = 500
_FULL = 503
_CLIENT_CLOSED = 499
"""nginx' own status."""

Outcome = Literal["answered", "full", "failed", "misrouted"]
"""misrouted: the color that was not meant answered the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, as nginx saw it."""

    began: float
    """When the request began, in unix time."""
    ended: float
    """When the reply had been sent, in unix time."""
    share: int
    """The index of its share in `PERCENTS`."""
    by: str
    """The color that answered; empty: none did."""
    status: int
    took_ms: float
    """Sum over all colors that nginx tried."""
    asked: bool
    """Whether nginx sent it to a color at all."""

    def outcome(self, meant: str) -> Outcome | None:
        """Return how the color did that the request was meant for; None: the answer does not show it. PURE.

        An answer by nginx itself (413, 400, 408, 429) and a client that hung up show nothing, nor does a refusal by
        gunicorn, which names no color. A 502, 503 or 504 without a color shows that nginx asked a color that did not
        answer: it failed.
        """
        if not self.asked or self.status == _CLIENT_CLOSED:
            return None
        if self.status >= _SERVER_ERROR and (self.status != _FULL or not self.by):
            return "failed"
        if not self.by:
            return None
        if self.by != meant:
            return "misrouted"
        return "full" if self.status == _FULL else "answered"


@dataclass(frozen=True, slots=True)
class Sample:
    """Latencies and failures of one color."""

    latencies_ms: tuple[float, ...]
    failures: int

    @property
    def requests(self) -> int:
        """Return the number of requests."""
        return len(self.latencies_ms)

    @property
    def failing(self) -> float:
        """Return the share that failed, 0..1."""
        return self.failures / self.requests if self.requests else 0.0

    @property
    def median_ms(self) -> float:
        """Return the median latency; 0 without requests."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else 0.0

    @property
    def p95_ms(self) -> float:
        """Return the 95th percentile of the latencies; the median where there are fewer than two."""
        few = self.requests < 2  # noqa: PLR2004 - quantiles take two
        return self.median_ms if few else statistics.quantiles(self.latencies_ms, n=20, method="inclusive")[-1]

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.failures} failed, p50 {self.median_ms:.0f} ms, p95 {self.p95_ms:.0f} ms"
        )


class Since:
    """The time when a comparison began, and unix time since then that ignores changes of the system's clock."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._steady = SteadyTime(clock, wall_clock)
        self._wall_clock = wall_clock
        self.began = self.now()

    def now(self) -> float:
        """Return unix seconds."""
        return self._steady.time()

    def in_steady_time(self, answer: Answer) -> Answer:
        """Return the answer in this time, if nginx took the answer's times from a clock that had been set."""
        now = self.now()
        set_by_s = self._wall_clock() - now
        if self.began <= answer.ended <= now or not self.began <= answer.ended - set_by_s <= now:
            return answer
        return replace(answer, began=answer.began - set_by_s, ended=answer.ended - set_by_s)


def start(run_dir: Path) -> Since:
    """Let nginx write to an empty log; return the time of the beginning."""
    stop(run_dir)
    (run_dir / SWITCH).symlink_to(f"/proc/{os.getpid()}/status")
    return Since()


def stop(run_dir: Path) -> None:
    """Let nginx write no more, and empty the log. Requests at work still add their lines."""
    (run_dir / SWITCH).unlink(missing_ok=True)
    (run_dir / LOG).touch(mode=0o600)
    os.truncate(run_dir / LOG, 0)  # not removed: nginx has it open


def read(run_dir: Path, since: Since) -> list[Answer]:
    """Return the answers to the requests that began since then."""
    lines = (run_dir / LOG).read_text(errors="replace").splitlines()
    return [answer for answer in map(since.in_steady_time, parse(lines)) if answer.began >= since.began]


def parse(lines: Iterable[str]) -> list[Answer]:
    """Return the answers in lines of the log; skip every other line. PURE."""
    found = []
    for line in lines:
        if match := _LINE.fullmatch(line):
            ended, took_s, share, by, status, tries = match.groups()
            began, color = float(ended) - float(took_s), "" if by == "-" else by
            tries_s = [float(seconds) for seconds in re.findall(r"\d+\.\d+", tries)]
            found.append(
                Answer(began, float(ended), int(share), color, int(status), 1000 * sum(tries_s), bool(tries_s))
            )
    return found


def samples(answers: Iterable[Answer], new: str, percent: int, until: float = math.inf) -> tuple[Sample, Sample]:
    """Return the samples of the old and the new color. PURE.

    A request that the other color had to answer counts as a failure.

    Args:
        answers: of the time in which the new color had its share.
        new: the new color.
        percent: its share.
        until: when it lost its share, in unix time. A request whose body arrived later went to the old color.
    """
    shares, old = shares_for(percent), other(new)
    of_new, of_old = [], []
    for answer in answers:
        if answer.share not in shares:
            of_old.append(answer)
        elif answer.by != old or answer.ended < until:
            of_new.append(answer)

    def sample(answers: Iterable[Answer], color: str) -> Sample:
        found = _outcomes(answers, color)
        return Sample(tuple(took for took, _ in found), sum(outcome != "answered" for _, outcome in found))

    return sample(of_old, old), sample(of_new, new)


def _outcomes(answers: Iterable[Answer], color: str) -> list[tuple[float, Outcome]]:
    """Return latency in ms and outcome of the answers that show how the color did that they were meant for."""
    return [(answer.took_ms, outcome) for answer in answers if (outcome := answer.outcome(color))]


def judge_alone(answers: Iterable[Answer], new: str) -> str:
    """Return figures of the new color, which has all clients, in words. An answer of 503 (full) is no failure. PURE.

    Raises:
        SetupError: too many requests failed, or did not reach it.
    """
    found = _outcomes(answers, new)
    counts = Counter(outcome for _, outcome in found)
    sample = Sample(tuple(took for took, _ in found), counts["failed"])
    if sample.failing > MORE_FAILURES:
        raise SetupError(f"clients' requests fail: {sample}")
    misrouted = counts["misrouted"]
    if misrouted > FEWEST_FAILURES and misrouted > UNREACHED * len(found):
        raise SetupError(f"{misrouted} of {len(found)} requests did not reach it; the old color answered")
    return str(sample)


def judge(old: Sample, new: Sample) -> str:
    """Return the figures of both colors in words, if the new one is as good. PURE.

    Raises:
        SetupError: the new color fails more, or is slower.
    """
    figures = f"new: {new}; old: {old}"
    if new.failures >= FEWEST_FAILURES and new.failing > old.failing + MORE_FAILURES:
        raise SetupError(f"the new color fails more often; {figures}")
    if min(new.requests, old.requests) < FEWEST:
        return f"too few requests to judge latency by; {figures}"
    slow_ms = SLOWER_P95 * old.p95_ms + SLOWER_P95_MS
    slow_tail = new.p95_ms > slow_ms and sum(took > slow_ms for took in new.latencies_ms) >= FEWEST_SLOW
    if slow_tail or new.median_ms > SLOWER_MEDIAN * old.median_ms + SLOWER_MEDIAN_MS:
        raise SetupError(f"the new color is slower; {figures}")
    return figures
