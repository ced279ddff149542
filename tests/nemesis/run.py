"""Does one fault after the other to a stack under load, in an order that follows from a seed."""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Iterable, Iterator

from nemesis import attackers, faults, surroundings
from nemesis.clients import Clients, Window
from nemesis.fault import CUT, Fault, Trial
from nemesis.judging import NO_EXCUSE, Verdict
from nemesis.known import KEY
from nemesis.row import Row
from nemesis.subject import BrokenError, Subject

ALL: tuple[Fault, ...] = (*faults.FAULTS, *surroundings.FAULTS, *attackers.FAULTS)

CONNECTIONS = "connections"
"""The section with thousands of connections of every kind, which takes minutes."""

SECTIONS = (*dict.fromkeys(fault.section for fault in ALL), CONNECTIONS)

GROWN_MB = 64
GROWN_DESCRIPTORS = 64
"""Growth that is worth a note."""


def in_random_order(chosen: Iterable[Fault], rng: random.Random) -> Iterator[Fault]:
    """Yield faults for ever: a round has each of them once, and all its sections from its beginning on."""
    chosen = list(chosen)
    while chosen:
        by_section: dict[str, list[Fault]] = {}
        for fault in rng.sample(chosen, len(chosen)):
            by_section.setdefault(fault.section, []).append(fault)
        for turn in itertools.zip_longest(*by_section.values()):
            yield from filter(None, turn)


class Nemesis:
    """A run over one subject."""

    def __init__(self, subject: Subject, clients: Clients, *, seed: int, scale: float) -> None:
        self.rows: dict[str, Row] = {}
        self.problems: list[str] = []
        self.rng = random.Random(seed)
        self._trial = Trial(subject, clients, self.rng, scale)
        self._subject = subject
        self._clients = clients
        self._seed = seed
        self._whole = subject.count()

    def harm(self, fault: Fault) -> None:
        """Do a fault, undo it, and wait until the service is whole again."""
        taken = self._subject.taken()
        window = self._clients.open(fault.name, fault.excuse)
        broken = ""
        try:
            with fault.during(self._trial):
                pass
            if fault.ends:
                self._subject.patiently(lambda: self._subject.ended or self._subject.answers(), "it ends, or heals")
            broken = self._heal(fault)
        except BrokenError as error:
            broken = f"{error}"
            self._begin_anew(window)
        finally:
            self._clients.close()
        self._note(fault, window, broken, taken)

    def _heal(self, fault: Fault) -> str:
        """Wait until all is as before; returns what is not."""
        if self._subject.ended:
            if not fault.ends:
                raise BrokenError(f"`serve` ended with {self._subject.process.returncode}")
            self._subject.start_anew()
        self._subject.patiently(self._subject.answers, "every part of it answers")
        late = self._clients.well(self._subject.patience_s)
        if late:
            raise BrokenError(f"no right reply again: {', '.join(late)}")
        try:
            self._subject.patiently(lambda: not self._subject.unlike(self._whole), "the same processes as before")
        except BrokenError:
            return f"processes: {self._subject.unlike(self._whole)}"
        return ""

    def _begin_anew(self, window: Window) -> None:
        """Make a service that did not recover whole by force, so that other faults meet one that works."""
        window.excuse |= CUT
        self._subject.end()
        self._subject.start_anew()
        late = self._clients.well(self._subject.patience_s)
        if late:
            raise SystemExit(f"a new stack does not serve: {', '.join(late)}")

    def _note(self, fault: Fault, window: Window, broken: str, taken: tuple[int, int]) -> None:
        size, descriptors = (now - was for now, was in zip(self._subject.taken(), taken, strict=True))
        notes = [f"+{size} MB"] if size > GROWN_MB else []
        notes += [f"+{descriptors} descriptors"] if descriptors > GROWN_DESCRIPTORS else []
        row = row_of(window, broken=broken, before=fault.before, note=", ".join(notes))
        self.add(row)
        words = [f"seed {self._seed}: {problem}" for problem in window.problems]
        words += [f"seed {self._seed}: broken: {fault.name}, at {window.began_s:.1f} s: {broken}"] if broken else []
        self.problems += words
        took_s = self._clients.now_s() - window.began_s
        say(
            f"{window.began_s:6.1f} s  {fault.section}: {fault.name}: {row.requests} requests, {row.refused} refused,"
            f" {row.cut} cut, {row.lost} lost, {row.wrong} wrong, longest {row.longest_s:.1f} s, whole after"
            f" {took_s:.1f} s{'' if row.holds else ' DOES NOT HOLD'} {row.note}"
        )
        for line in words:
            say(f"    {line}")

    def connections(self, each: int, seconds: float) -> None:
        """Hold thousands of connections of every kind, while another address is answered."""
        from nemesis import connections

        window = self._clients.open("clients beside thousands of connections", NO_EXCUSE)
        try:
            rows = connections.run(self._subject, key=KEY, each=each, seconds=seconds)
        finally:
            self._clients.close()
        for row in rows:
            self.add(row)
            self.problems += [] if row.holds else [f"seed {self._seed}: {row}"]
        self.problems += [f"seed {self._seed}: {problem}" for problem in window.problems]
        self.add(row_of(window))

    def add(self, row: Row) -> None:
        """Add what was seen to what was seen of the same fault before."""
        old = self.rows.get(row.fault)
        self.rows[row.fault] = row if old is None else merged(old, row)

    def finish(self) -> list[Row]:
        """Wait until all is at rest, after the clients left; returns all rows, calm times first."""
        row = row_of(self._clients.calm)
        try:
            self._subject.patiently(self._subject.rests, "no request is at work when all clients have left")
        except BrokenError as error:
            row.broken = str(error)
        self.problems += [
            f"seed {self._seed}: {problem}" for problem in (*self._clients.calm.problems, row.broken) if problem
        ]
        return [row, *sorted(self.rows.values(), key=_place)]


def row_of(window: Window, **more: str) -> Row:
    """Return what a window saw as a row."""
    return Row(
        window.fault,
        requests=window.met.total(),
        refused=window.met[Verdict.REFUSED],
        cut=window.met[Verdict.CUT],
        lost=window.met[Verdict.LOST],
        wrong=window.met[Verdict.WRONG],
        longest_s=window.longest_s,
        **more,
    )


def merged(one: Row, other: Row) -> Row:
    """Return two rows of a fault as one."""
    return Row(
        one.fault,
        *(getattr(one, name) + getattr(other, name) for name in ("requests", "refused", "cut", "lost", "wrong")),
        longest_s=max(one.longest_s, other.longest_s),
        note="; ".join(filter(None, dict.fromkeys((one.note, other.note)))),
        times=one.times + other.times,
        broken=one.broken or other.broken,
        before=one.before,
    )


def _place(row: Row) -> int:
    names = [fault.name for fault in ALL]
    return names.index(row.fault) if row.fault in names else len(names)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_for(nemesis: Nemesis, subject: Subject, chosen: list[Fault], seconds: float) -> None:
    """Do faults until the time is over; what can't be done now is left out."""
    end = time.monotonic() + seconds
    skipped = 0
    for fault in in_random_order(chosen, nemesis.rng):
        if time.monotonic() >= end or skipped > len(chosen):
            return
        if not fault.possible(subject):
            skipped += 1
            continue
        skipped = 0
        nemesis.harm(fault)
