"""The system's clock may be set by a day while we run, and we may stand still: nothing that waits or counts notices."""

import datetime as dt
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from gunicorn import arbiter
from gunicorn.workers import ggevent
from supervisor.states import ProcessStates

from contracts.events import VERSION, Finished, Frame, Pulse, Source
from pusher import server as pushers
from pusher import state_file
from pusher.relay import Relay
from supervisor import process
from webapp.domain.concurrency import AwakeClock, SteadyTime, make_steady
from webapp.servers.gunicorn.worker import GRACE_S, STANDSTILL_S, with_grace
from webapp.service.rate_limit import Quota
from webapp.stack import tls
from webapp.stack.releases import canary

ROOT = Path(__file__).resolve().parents[2]

A_DAY_S = 86_400.0

TELL_THE_DATE = {
    *("build", "deploy", "steps", "status", "settings_diff", "doctor", "console", "tls"),
    *("rerank", "info", "health", "configure", "reloading", "logging", "state_file"),
    "server",  # the pusher's
}
"""Modules that write dates, or ask for the age of a file. All others wait and count by a clock that only runs."""


class Clocks:
    """The machine's two clocks: one that can be set, and one that only runs."""

    def __init__(self):
        self.day, self.steady = 1.8e9, 5000.0

    def of_the_day(self):
        return self.day

    def monotonic(self):
        return self.steady

    def run(self, seconds):
        self.day += seconds
        self.steady += seconds


@pytest.fixture
def clocks():
    return Clocks()


both_ways = pytest.mark.parametrize("set_by_s", [A_DAY_S, -A_DAY_S], ids=["forth", "back"])


def test_nothing_is_measured_by_the_time_of_day():
    """Deadlines, the breaker, patience, retries: each is told the time by a clock that only runs."""
    of_the_day = re.compile(r"time\.time\(|datetime\.(now|utcnow|today)\(")
    sources = [file for folder in ("webapp", "pusher", "contracts") for file in (ROOT / folder).rglob("*.py")]
    assert {source.stem for source in sources if of_the_day.search(source.read_text())} == TELL_THE_DATE


@both_ways
def test_time_that_is_given_to_others_begins_as_that_of_the_day_and_then_only_runs(clocks, set_by_s):
    steady = SteadyTime(clocks.monotonic, clocks.of_the_day)
    assert steady.time() == clocks.day
    clocks.run(5)
    clocks.day += set_by_s
    clocks.run(5)
    assert steady.time() == 1.8e9 + 10
    assert steady.sleep is time.sleep, "all else is as it was"


@pytest.mark.parametrize("module", [arbiter, ggevent, process], ids=lambda module: module.__name__)
def test_gunicorn_and_supervisord_wait_by_a_clock_that_only_runs(monkeypatch, module):
    for each in (arbiter, ggevent, process):
        monkeypatch.setattr(each, "time", time)
    make_steady(arbiter, ggevent, process)
    before = module.time.time()
    monkeypatch.setattr(time, "time", lambda: before + A_DAY_S)
    assert module.time.time() - before < A_DAY_S / 2


@both_ways
def test_supervisord_kills_no_program_that_stops_while_the_clock_is_set(monkeypatch, set_by_s):
    monkeypatch.setattr(process, "time", time)
    make_steady(process)
    config = SimpleNamespace(name="webapp", stopwaitsecs=100, startsecs=1, options=SimpleNamespace(mood=1))
    config.options.logger = SimpleNamespace(warn=print)
    program = process.Subprocess(config)
    program.state, program.pid = ProcessStates.STOPPING, 1
    program.delay = process.time.time() + config.stopwaitsecs
    killed = []
    program.kill = killed.append
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + set_by_s)
    program.transition()
    assert killed == []


class Master:
    """gunicorn's, with a worker that showed its last sign of life a while ago."""

    def __init__(self, clock, timeout):
        self._clock, self._timeout = clock, timeout
        self.beat, self.murdered = clock(), 0

    def murder_workers(self):
        self.murdered += self._clock() - self.beat > self._timeout


def looks(clocks, master, look, seconds, *, worker_lives):
    for _ in range(int(seconds)):
        clocks.run(1)
        if worker_lives:
            master.beat = clocks.steady
        look(master)


def test_a_master_that_stood_still_with_its_workers_gives_them_time_to_show_that_they_live(clocks):
    master = Master(clocks.monotonic, timeout=60)
    look = with_grace(Master.murder_workers, clocks.monotonic)
    looks(clocks, master, look, 30, worker_lives=True)
    clocks.run(3600)  # all stood still
    look(master)
    assert master.murdered == 0
    looks(clocks, master, look, 60, worker_lives=True)
    assert master.murdered == 0


def test_a_worker_that_hangs_is_still_found_after_a_standstill(clocks):
    master = Master(clocks.monotonic, timeout=60)
    look = with_grace(Master.murder_workers, clocks.monotonic)
    clocks.run(3600)
    looks(clocks, master, look, GRACE_S + 1, worker_lives=False)
    assert master.murdered


def test_a_loop_that_looks_in_time_is_awake_since_its_last_standstill(clocks):
    awake = AwakeClock(STANDSTILL_S, clocks.monotonic)
    for _ in range(10):
        clocks.run(STANDSTILL_S)
        awake.look()
    assert awake.look() == 10 * STANDSTILL_S
    clocks.run(STANDSTILL_S + 1)
    assert awake.look() == 0
    clocks.run(2)
    assert awake.look() == 2


@both_ways
def test_a_limit_a_minute_does_not_notice_that_the_clock_is_set(monkeypatch, clocks, set_by_s):
    quota = Quota(requests_per_minute=2, clock=clocks.monotonic)
    quota.take("requests", "a", 2)
    monkeypatch.setattr(time, "time", lambda: clocks.day + set_by_s)
    with pytest.raises(Exception, match="come again in") as refused:
        quota.take("requests", "a")
    assert refused.value.retry_after_s <= 120
    clocks.run(refused.value.figures["eta_s"] + 0.001)
    quota.take("requests", "a")


def test_the_pushers_clock_does_not_jump_with_the_systems(monkeypatch):
    before = pushers.now()
    assert abs(before - time.time()) < 60
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= pushers.now() - before < 60


@both_ways
def test_a_pusher_that_is_restarted_after_the_clock_was_set_knows_how_old_things_are(tmp_path, monkeypatch, set_by_s):
    path = tmp_path / "pusher.json"
    began = pushers.now()
    before = Relay(began)
    end = Finished(id="a", dialect="native", pairs=1, status="ok", latency_ms=1.0)
    pulse = Pulse(state="ready", queue_pairs=0, queue_tokens=0, in_flight=0, pairs_per_s=1.0)
    before.take(Frame(v=VERSION, source=Source(id="w", pid=1), seq=0, events=[pulse, end]), began)
    before.tick(began + 1)
    state_file.save(before, path, pushers.now())

    written = path.stat().st_mtime + set_by_s  # it is written each second: also after the clock was set
    os.utime(path, (written, written))
    monkeypatch.setattr(time, "time", lambda: written + 5)
    now = written + 5
    after = state_file.recall(path, now).snapshot()
    assert now - after["recent"][0]["ended"] == pytest.approx(5, abs=2)
    assert now - after["points"][-1]["t"] == pytest.approx(5, abs=2)


@both_ways
def test_a_certificate_of_ours_outlives_a_clock_that_is_set(tmp_path, monkeypatch, set_by_s):
    files = tls.Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    tls.make_self_signed(files, "host.example")
    now = tls._now() + dt.timedelta(seconds=set_by_s)
    monkeypatch.setattr(tls, "_now", lambda: now)
    assert tls.is_current(files.cert, "host.example"), "no new one for clients to trust"
    assert tls.valid_until(files) > now
    found = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert found.not_valid_before_utc <= now


@both_ways
def test_a_release_is_judged_by_its_own_requests_when_the_clock_is_set_meanwhile(tmp_path, clocks, set_by_s):
    since = canary.Since(clocks.monotonic, clocks.of_the_day)

    def line(began_ago_s, took_s):
        ended = clocks.day - began_ago_s + took_s
        return f"{ended:.3f} {took_s:.3f} webapp_0 green 500 {took_s:.3f}\n"

    log = tmp_path / canary.LOG
    log.write_text(line(10, 11))  # began before, and ended after
    clocks.run(5)
    log.write_text(log.read_text() + line(2, 1))
    clocks.day += set_by_s
    clocks.run(5)
    log.write_text(log.read_text() + line(2, 1))
    answers = canary.read(tmp_path, since)
    assert len(answers) == 2, "those that began since, by whatever clock"
    assert all(since.began < answer.began < answer.ended < since.now() for answer in answers)
