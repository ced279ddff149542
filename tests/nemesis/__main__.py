"""Harm a stack of its own under load, and judge every reply: `scripts/nemesis --help`."""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import signal
import sys
from pathlib import Path

from nemesis.clients import Clients
from nemesis.run import ALL, CONNECTIONS, SECTIONS, Nemesis, run_for, say
from nemesis.subject import Subject, running_subject
from nemesis.surroundings import bound_redis
from nemesis.table import table, write_into

FULL_MINUTES = 10.0
"""A run of so many minutes, or more, has the costly faults too, and all hostile clients."""

SHORT_SCALE = 0.1

CONNECTIONS_ALONE = (10_000, 60.0)
CONNECTIONS_IN_FULL = (10_000, 10.0)
CONNECTIONS_IN_SHORT = (300, 2.0)
"""Connections of each kind, and the seconds for which they are held."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/nemesis",
        description="Harm a stack of its own under load, in random order, and judge every reply."
        " Ends with 1 when a request was lost, a reply wrong, or the service not whole again.",
    )
    parser.add_argument("--seed", type=int, help="repeats an order; default: another one each time")
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="how long; default: %(default)g")
    parser.add_argument("--only", metavar="SECTION[,SECTION]", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--patience", type=float, default=90.0, help="most seconds until it is whole again")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--table", type=Path, metavar="FILE", help="put the table between the marks in this file")
    chosen = parser.parse_args()
    chosen.sections = chosen.only.split(",") if chosen.only else SECTIONS
    unknown = set(chosen.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return chosen


def main() -> int:
    """Run, print the table, and return the exit code."""
    chosen = arguments()
    if chosen.list:
        for fault in ALL:
            say(f"{fault.section}: {fault.name}{'' if fault.cheap else ' (in full runs)'}")
        say(f"{CONNECTIONS}: thousands of connections of each kind")
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored by what a shell starts in the background
        signal.signal(number, signal.default_int_handler)
    for name in [*filter(lambda name: name.startswith("RERANK_"), os.environ), "PYTHONPATH"]:
        os.environ.pop(name, None)  # none of it is meant for the stack
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    seed = secrets.randbelow(10**6) if chosen.seed is None else chosen.seed
    say(f"seed {seed}; the stack starts")
    full = chosen.only is not None or chosen.minutes >= FULL_MINUTES
    with running_subject(chosen.patience) as subject:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        nemesis = harm(subject, seed, chosen.minutes, chosen.sections, full=full)
        rows = nemesis.finish()
    said = table(rows)
    say(f"\n{said}")
    if chosen.table:
        write_into(chosen.table, said)
    for problem in nemesis.problems:
        say(problem)
    total = sum(row.requests for row in rows)
    say(f"seed {seed}: {total} requests, {len(nemesis.problems)} problems")
    return 1 if nemesis.problems else 0


def harm(subject: Subject, seed: int, minutes: float, sections: list[str], *, full: bool) -> Nemesis:
    """Run the chosen sections over a subject."""
    if subject.redis:
        bound_redis(subject)
    else:
        say("redis-server is not installed: its faults are left out")
    faults = [fault for fault in ALL if fault.section in sections and (full or fault.cheap)]
    with Clients(subject.url, subject.known, seed) as clients:
        late = clients.well(subject.patience_s)
        if late:
            raise SystemExit(f"the service is not right before any fault: {', '.join(late)}")
        nemesis = Nemesis(subject, clients, seed=seed, scale=1.0 if full else SHORT_SCALE)
        if CONNECTIONS in sections:
            long = CONNECTIONS_IN_FULL if faults else CONNECTIONS_ALONE
            nemesis.connections(*(long if full else CONNECTIONS_IN_SHORT))
        run_for(nemesis, subject, faults, minutes * 60 - clients.now_s())
    return nemesis


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
