"""Faults of processes: kills, pauses, and what operators do to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psutil

from nemesis.fault import CUT, FOLLOWERS, Do, Fault, Trial

Find = Callable[[Trial], psutil.Process]


def _one(kind: str) -> Find:
    def find(trial: Trial) -> psutil.Process:
        return trial.rng.choice(trial.subject.patiently(lambda: trial.subject.by_kind()[kind], f"a {kind}"))

    return find


def _master(trial: Trial) -> psutil.Process:
    return trial.subject.patiently(trial.subject.masters, "gunicorn's master")[0]


def _worker(trial: Trial) -> psutil.Process:
    subject = trial.subject

    def workers() -> list[psutil.Process]:
        masters = subject.masters()
        return [each for each in subject.by_kind()["gunicorn"] if each not in masters]

    return trial.rng.choice(subject.patiently(workers, "a worker"))


def _comparison(trial: Trial) -> psutil.Process:
    """Start the comparison of engines, and return it; with the engine chosen it would end by itself, soon."""
    pid = trial.subject.patiently(lambda: _started_comparison(trial), "the comparison of engines starts")
    return psutil.Process(pid)


def _started_comparison(trial: Trial) -> int | None:
    trial.subject.supervisorctl("start", "compare")
    found = trial.subject.by_kind()["comparison"]
    return found[0].pid if found else None


def killed(find: Find, times: int = 1) -> Do:
    """Kill one; then the next, as soon as clients got on without it."""

    def do(trial: Trial) -> Iterator[None]:
        for number in range(times):
            if number:
                trial.goes_on()
            victim = find(trial)
            _signal(victim, signal.SIGKILL)
            trial.subject.patiently(lambda gone=victim: _is_dead(gone), "it is dead")
        yield

    return do


def killed_together(*finds: Find) -> Do:
    """Kill several, one right after the other, in an order drawn at random."""

    def do(trial: Trial) -> Iterator[None]:
        victims = [find(trial) for find in finds]
        trial.rng.shuffle(victims)
        for victim in victims:
            _signal(victim, signal.SIGKILL)
        trial.subject.patiently(lambda: all(map(_is_dead, victims)), "they are dead")
        yield

    return do


def _is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


PAUSE_S = (1, 4)

LOGGED_REQUESTS = 400
"""More than the 140 after which the service hung when nobody took its log lines."""


def paused(find: Find, *, for_requests: int | None = None) -> Do:
    """Stop a process for some seconds; or for so many requests, where all has to answer without it."""

    def do(trial: Trial) -> Iterator[None]:
        victim = find(trial)
        _signal(victim, signal.SIGSTOP)
        try:
            if for_requests is None:
                trial.hold(trial.rng.uniform(*PAUSE_S))
            else:
                trial.goes_on(for_requests)
            yield
        finally:
            _signal(victim, signal.SIGCONT)

    return do


def hung_up(find: Find) -> Do:
    def do(trial: Trial) -> Iterator[None]:
        _signal(find(trial), signal.SIGHUP)
        yield

    return do


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return


def terminated_worker(trial: Trial) -> Iterator[None]:
    _signal(_worker(trial), signal.SIGTERM)
    yield


def operated(*arguments: str) -> Do:
    def do(trial: Trial) -> Iterator[None]:
        trial.subject.operate(*arguments)
        yield

    return do


def deployed(*options: str) -> Do:
    def do(trial: Trial) -> Iterator[None]:
        trial.subject.deploy(*options)
        yield

    return do


def rolled_back(trial: Trial) -> Iterator[None]:
    trial.subject.deploy("--watch", "0.2")
    trial.subject.operate("rollback")
    yield


def killed_deploy(trial: Trial) -> Iterator[None]:
    """Kill a deploy at a step drawn at random; the next one puts away what it left."""
    deploying = trial.subject.begin_command("deploy", "--again", "--watch", "0.2")
    step = trial.rng.choice(("prepare", "start", "ready", "gate", "switch"))
    for line in deploying.stdout:
        if line.startswith(step):
            break
    deploying.kill()
    deploying.wait()
    deploying.stdout.close()
    trial.subject.deploy("--watch", "0.2")
    yield


# A reload ends open streams, too: followers show their key again.
FAULTS = (
    Fault(
        "kills",
        "`kill -9` of a worker, five times",
        killed(_worker, 5),
        FOLLOWERS,
        before="2 of 78, and 6 of 481, replies of more than 1 MB were cut short",
    ),
    Fault("kills", "`kill -9` of gunicorn's master", killed(_master), FOLLOWERS),
    Fault("kills", "`kill -9` of the reading process", killed(_one("reading process"))),
    Fault("kills", "`kill -9` of the pusher", killed(_one("pusher")), FOLLOWERS),
    Fault(
        "kills", "`kill -9` of the exporter", killed(_one("exporter")), before="24 KB of files stayed of each worker"
    ),
    Fault("kills", "`kill -9` of an nginx worker", killed(_one("nginx worker")), CUT),
    Fault("kills", "`kill -9` of nginx' master", killed(_one("nginx")), CUT),
    Fault(
        "kills",
        "`kill -9` of master, nginx, pusher and exporter together",
        killed_together(_master, _one("nginx"), _one("pusher"), _one("exporter")),
        CUT,
    ),
    Fault("kills", "`kill -9` of the engine comparison", killed(_comparison)),
    Fault("kills", "`kill -9` of supervisord", killed(_one("supervisord")), CUT, ends=True),
    Fault("kills", "`kill -9` of `reranking serve`", killed(_one("serve")), CUT, ends=True),
    Fault("pauses", "SIGSTOP of a worker", paused(_worker)),
    Fault("pauses", "SIGSTOP of gunicorn's master", paused(_master)),
    Fault("pauses", "SIGSTOP of the reading process", paused(_one("reading process"))),
    Fault(
        "pauses",
        "SIGSTOP of the pusher",
        paused(_one("pusher"), for_requests=0),
        FOLLOWERS,
        before="what depends on it hung",
    ),
    Fault("pauses", "SIGSTOP of the exporter", paused(_one("exporter"), for_requests=0), before="`/metrics` hung"),
    Fault("pauses", "SIGSTOP of an nginx worker", paused(_one("nginx worker"))),
    Fault("pauses", "SIGSTOP of nginx' master", paused(_one("nginx"))),
    Fault(
        "pauses",
        "SIGSTOP of supervisord",
        paused(_one("supervisord"), for_requests=LOGGED_REQUESTS),
        before="all hung after 140 requests, `/ready` too",
    ),
    Fault("restarts", "HUP of `reranking serve`", hung_up(_one("serve")), FOLLOWERS),
    Fault("restarts", "HUP of gunicorn's master", hung_up(_master)),
    Fault("restarts", "TERM of a worker", terminated_worker),
    Fault(
        "restarts", "HUP of supervisord", hung_up(_one("supervisord")), FOLLOWERS, before="108 connections were refused"
    ),
    Fault("restarts", "`reranking reload`", operated("reload"), FOLLOWERS),
    Fault("restarts", "`reranking restart`", operated("restart"), FOLLOWERS),
    Fault("restarts", "`reranking restart pusher`", operated("restart", "pusher"), FOLLOWERS),
    Fault("restarts", "`reranking restart nginx`", operated("restart", "nginx"), CUT),
    Fault("releases", "a deploy", deployed("--watch", "0.5")),
    Fault(
        "releases",
        "a canary",
        deployed("--canary", "50", "--for", "1", "--watch", "0.5"),
        cheap=False,
    ),
    Fault("releases", "a rollback", rolled_back, cheap=False),
    Fault("releases", "`kill -9` of a deploy, and the next one", killed_deploy, cheap=False),
)
