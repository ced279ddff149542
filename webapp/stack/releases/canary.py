"""How each color answers its clients: a log that nginx writes while a file is there, and the judgement of it."""

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
"""In the run directory; nginx opens it once, and always has it open."""

SWITCH = "comparing"
"""Beside it: nginx writes to the log while this file is there. It is a link to a file of the process that compares, so
that the log of one that was killed does not grow on."""

FEWEST = 20
"""Requests below which latency says nothing."""

MORE_FAILURES = 0.01
"""Share of failures by which the new color may be worse, so that one in hundreds decides nothing."""

FEWEST_FAILURES = 2
"""One may be anything."""

UNREACHED = 0.1
"""Share of the requests that the old color may have to answer when they are the new one's."""

SLOWER_MEDIAN, SLOWER_MEDIAN_MS = 1.5, 20.0
SLOWER_P95, SLOWER_P95_MS = 2.0, 50.0
"""The new color's latency may be so many times the old one's, and so much more."""

_LINE = re.compile(r"([\d.]+) ([\d.]+) webapp_(\d) (\S+) (\d{3}) (.+)")
_SERVER_ERROR = 500
_FULL = 503
_HUNG_UP = 499

Outcome = Literal["answered", "full", "failed", "elsewhere"]
"""elsewhere: another color than the request's own answered it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request, as nginx saw it."""

    began: float
    """Unix time."""
    share: int
    """Its place in `PERCENTS`."""
    by: str
    """The color that answered; empty: none did."""
    status: int
    took_ms: float
    asked: bool = True
    """Whether nginx sent it to a color at all."""
    ended: float = 0.0
    """Unix time; the reply had been sent by then."""

    def outcome(self, meant: str) -> Outcome | None:
        """What it says of the color that it was meant for; None: nothing. PURE.

        What nginx refused by itself (413, 400, 408, 429) and callers that hung up say nothing of any color. Nor does a
        refusal by gunicorn, which names no color; but a color that was asked and did not answer, as nginx' 502, 503
        and 504 without a color tell, failed.
        """
        if not self.asked or self.status == _HUNG_UP:
            return None
        if self.status >= _SERVER_ERROR and (self.status != _FULL or not self.by):
            return "failed"
        if not self.by:
            return None
        if self.by != meant:
            return "elsewhere"
        return "full" if self.status == _FULL else "answered"


@dataclass(frozen=True, slots=True)
class Sample:
    """One color's answers."""

    latencies_ms: tuple[float, ...]
    failures: int

    @property
    def requests(self) -> int:
        """How many."""
        return len(self.latencies_ms)

    @property
    def failing(self) -> float:
        """Share that failed."""
        return self.failures / self.requests if self.requests else 0.0

    @property
    def median_ms(self) -> float:
        """Of the latencies."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else 0.0

    @property
    def p95_ms(self) -> float:
        """Of the latencies."""
        few = self.requests < 2  # noqa: PLR2004 - quantiles take two
        return self.median_ms if few else statistics.quantiles(self.latencies_ms, n=20, method="inclusive")[-1]

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.failures} failed, p50 {self.median_ms:.0f} ms, p95 {self.p95_ms:.0f} ms"
        )


class Since:
    """When the comparison began, and unix time that only runs since then, however the system's clock is set."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, of_the_day: Callable[[], float] = time.time
    ) -> None:
        self._steady = SteadyTime(clock, of_the_day)
        self._of_the_day = of_the_day
        self.began = self.now()

    def now(self) -> float:
        """Return unix seconds."""
        return self._steady.time()

    def in_steady_time(self, answer: Answer) -> Answer:
        """Return an answer whose times nginx took from a clock that was set meanwhile, by what that would be."""
        now = self.now()
        set_by_s = self._of_the_day() - now
        if self.began <= answer.ended <= now or not self.began <= answer.ended - set_by_s <= now:
            return answer
        return replace(answer, began=answer.began - set_by_s, ended=answer.ended - set_by_s)


def start(run_dir: Path) -> Since:
    """Have nginx write its log, from nothing; returns since when."""
    stop(run_dir)
    (run_dir / SWITCH).symlink_to(f"/proc/{os.getpid()}/status")
    return Since()


def stop(run_dir: Path) -> None:
    """Have nginx write no more, and empty the log. Requests that have begun by now still add their line."""
    (run_dir / SWITCH).unlink(missing_ok=True)
    (run_dir / LOG).touch(mode=0o600)
    os.truncate(run_dir / LOG, 0)  # not removed: nginx has it open


def read(run_dir: Path, since: Since) -> list[Answer]:
    """The requests that began since."""
    lines = (run_dir / LOG).read_text(errors="replace").splitlines()
    return [answer for answer in map(since.in_steady_time, parse(lines)) if answer.began >= since.began]


def parse(lines: Iterable[str]) -> list[Answer]:
    """Lines of the log; what is no such line is left out. PURE."""
    found = []
    for line in lines:
        if match := _LINE.fullmatch(line):
            ended, took_s, share, by, status, times = match.groups()
            tries_s = [float(time) for time in re.findall(r"\d+\.\d+", times)]
            began = float(ended) - float(took_s)
            color = "" if by == "-" else by
            found.append(
                Answer(began, int(share), color, int(status), 1000 * sum(tries_s), bool(tries_s), float(ended))
            )
    return found


def samples(answers: Iterable[Answer], new: str, percent: int, until: float = math.inf) -> tuple[Sample, Sample]:
    """The old and the new color's answers. A request that the other color had to answer is a failure. PURE.

    Args:
        answers: of the time in which the new color had its share.
        new: the new color.
        percent: its share.
        until: when it gave its share back, in unix time. A body that was still on its way then went to the old color.
    """
    ours, old = shares_for(percent), other(new)
    of_new, of_old = [], []
    for answer in answers:
        if answer.share not in ours:
            of_old.append(answer)
        elif answer.by != old or answer.ended < until:
            of_new.append(answer)
    return _sample(of_old, old), _sample(of_new, new)


def _sample(answers: Iterable[Answer], color: str) -> Sample:
    """What the answers meant for a color say of it."""
    told = [(answer.took_ms, outcome) for answer in answers if (outcome := answer.outcome(color))]
    return Sample(tuple(took for took, _ in told), sum(outcome != "answered" for _, outcome in told))


def judge_alone(answers: Iterable[Answer], new: str) -> str:
    """What the answers say when the new color has all clients, in words. Being full is no failure here. PURE.

    Raises:
        SetupError: too many failed.
    """
    told = [(answer.took_ms, outcome) for answer in answers if (outcome := answer.outcome(new))]
    outcomes = Counter(outcome for _, outcome in told)
    sample = Sample(tuple(took for took, _ in told), outcomes["failed"])
    if sample.failing > MORE_FAILURES:
        raise SetupError(f"clients' requests fail: {sample}")
    elsewhere = outcomes["elsewhere"]
    if elsewhere > FEWEST_FAILURES and elsewhere > UNREACHED * len(told):
        raise SetupError(f"{elsewhere} of {len(told)} requests did not reach it; the old color answered")
    return str(sample)


def judge(old: Sample, new: Sample) -> str:
    """What the comparison says, in words. PURE.

    Raises:
        SetupError: the new color fails more, or is slower.
    """
    figures = f"new: {new}; old: {old}"
    if new.failures >= FEWEST_FAILURES and new.failing > old.failing + MORE_FAILURES:
        raise SetupError(f"the new color fails more often; {figures}")
    if min(new.requests, old.requests) < FEWEST:
        return f"too few requests to judge latency by; {figures}"
    if (
        new.median_ms > SLOWER_MEDIAN * old.median_ms + SLOWER_MEDIAN_MS
        or new.p95_ms > SLOWER_P95 * old.p95_ms + SLOWER_P95_MS
    ):
        raise SetupError(f"the new color is slower; {figures}")
    return figures
