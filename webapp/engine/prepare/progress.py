"""Progress of a long job: its stages, each with a bar on a terminal and the time that it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

BAR_WIDTH = 20
REDRAW_S = 0.25

LONG_STAGE_S = 1.0
"""Without a terminal, a shorter stage gets no second line."""

ESTIMATE_AFTER_S, ESTIMATE_AFTER_SHARE = 2.0, 0.1
"""Seconds, and share of the work, after which the rest of a stage can be estimated."""

Report = Callable[[str], None]
"""Takes one line for the user."""

ReportShare = Callable[[float], None]
"""Takes the share of a stage that is done, 0..1."""


class Stages:
    """Reports which stage of a job runs: `[5/6] comparing scores`."""

    def __init__(
        self, total: int, report: Report, terminal: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a job.

        Args:
            total: how many stages it has.
            report: takes each line.
            terminal: where a bar is drawn; None draws none.
            clock: seconds.
        """
        self._total = total
        self._report = report
        self._terminal = terminal
        self._clock = clock
        self._drawing = threading.Lock()

    def report(self, message: str) -> None:
        """Report a line; the bar moves down."""
        with self._drawing:
            self._draw()
            self._report(message)

    @contextmanager
    def stage(self, number: int, what: str) -> Iterator[ReportShare]:
        """Report one stage while it runs; a job that tries several ways may come to the same stage again."""
        title = f"[{number}/{self._total}] {what}"
        began, done, done_after_s = self._clock(), 0.0, 0.0
        ended = threading.Event()

        def report_share(share: float) -> None:
            nonlocal done, done_after_s
            done, done_after_s = min(1.0, share), self._clock() - began

        def redraw() -> None:
            while not ended.wait(REDRAW_S):
                took_s = self._clock() - began
                share, left_s = (number - 1 + done) / self._total, remaining(done, done_after_s, took_s)
                with self._drawing:
                    self._draw(line(title, share, took_s, left_s))

        drawer = threading.Thread(target=redraw, daemon=True)
        if self._terminal is None:
            self._report(title)
        else:
            drawer.start()
        try:
            yield report_share
        finally:
            ended.set()
            took_s = self._clock() - began
            if self._terminal is not None:
                drawer.join()
                self.report(f"{title}: {took_s:.1f} s")
            elif took_s >= LONG_STAGE_S:
                self._report(f"{title}: done in {took_s:.1f} s")

    def _draw(self, bar: str = "") -> None:
        if self._terminal is not None:
            self._terminal.write(f"\r\x1b[K{bar}")
            self._terminal.flush()


def remaining(done: float, done_after_s: float, took_s: float) -> float:
    """Return the seconds a stage still takes, at its pace so far; 0 if it is too early to estimate. PURE."""
    if done < ESTIMATE_AFTER_SHARE or done_after_s < ESTIMATE_AFTER_S:
        return 0.0
    return max(0.0, done_after_s / done - took_s)


def line(title: str, share: float, took_s: float, left_s: float) -> str:
    """Return a line: the stage, a bar of the whole job, the time so far and, if known, the time left. PURE."""
    filled = round(share * BAR_WIDTH)
    left = f", about {left_s:.0f} s more" if left_s >= 1 else ""
    return f"{title} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {took_s:.0f} s{left}"
