"""The exporter as a process, with the folder that workers leave and a pusher that is there or not."""

import http.client
import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import PATIENCE_S, wait_for

from webapp.domain.errors import SetupError
from webapp.telemetry import multiprocess
from webapp.telemetry.exporter import Workers

WORKER = """
import sys
from prometheus_client import CollectorRegistry
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Reply
from worker_kit import stats
FACTS = {"documents": 5, "tokens": 9, "queue_ms": 1.0, "tokenise_ms": 1.0, "score_ms": 1.0}
metrics = Metrics(CollectorRegistry())
for _ in range(int(sys.argv[1])):
    metrics.replied(Reply("POST", "/rerank", "native", 200, 0.02, "id", {}, FACTS))
metrics.sample(stats(in_flight=3))
print("counted", flush=True)
sys.stdin.read()
"""
"""Counts, and lives until its input ends."""


MASTER = """
import os, signal, sys
from prometheus_client import CollectorRegistry
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.observer import Reply
from worker_kit import stats
FACTS = {"documents": 5, "degraded": True}
REPLY = Reply("POST", "/rerank", "native", 200, 0.1, "id", {}, FACTS)
metrics = Metrics(CollectorRegistry())
told, tell = os.pipe()

def work():
    metrics.sample(stats(in_flight=1))
    while True:
        metrics.replied(REPLY)
        os.write(tell, b".")  # no count that was told of may be lost
        metrics.publish()

workers, done = [], 0
for line in sys.stdin:
    while len(workers) < 2:
        worker = os.fork()
        if not worker:
            work()
        workers.append(worker)
    done += len(os.read(told, int(line)))
    os.kill(workers[0], signal.SIGKILL)
    os.waitpid(workers.pop(0), 0)
    print(done, flush=True)
for worker in workers:
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
os.set_blocking(told, False)
try:
    while more := os.read(told, 65536):
        done += len(more)
except BlockingIOError:
    pass
print(done, flush=True)
"""
"""Forks workers and kills them, two at a time. Prints how many requests they have told of."""


@contextmanager
def worker(folder, requests):
    """A worker that has answered so many requests, and lives. It dies without a word."""
    command = [sys.executable, "-c", WORKER, str(requests)]
    with subprocess.Popen(command, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"counted\n"
            yield
        finally:
            process.kill()


def count_in_a_worker(folder, requests):
    with worker(folder, requests):
        pass


def environment(folder):
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    return {**os.environ, multiprocess.VARIABLE: str(folder), "PYTHONPATH": path}


@contextmanager
def exporter(folder, pusher):
    address = folder.parent / "metrics.sock"
    command = [sys.executable, "-m", "webapp.telemetry.exporter", str(folder), str(address), str(pusher)]
    process = subprocess.Popen(command)
    try:
        wait_for(lambda: address.is_socket() and scrape(address), "the exporter answers")
        yield address
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def scrape(address):
    """Sample name with labels -> value."""
    with closing(http.client.HTTPConnection("exporter", timeout=PATIENCE_S)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(address))
        except ConnectionRefusedError:  # bound, and not listening yet
            return {}
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


REQUESTS = ("rerank_requests_total", ("dialect", "native"), ("route", "/rerank"), ("status", "200"))


def figures(folder):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in Workers(folder).collect()
        for sample in metric.samples
    }


def test_what_dead_workers_counted_stays_and_their_levels_go(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    count_in_a_worker(folder, 5)
    files = len(list(folder.iterdir()))
    count_in_a_worker(folder, 7)
    assert len(list(folder.iterdir())) == files, "the second took the place of the first"
    with exporter(folder, tmp_path / "nobody.sock") as address:
        assert address.stat().st_mode & 0o077 == 0
        seen = scrape(address)
        assert seen[REQUESTS] == seen["rerank_request_duration_seconds_count",] == 12
        assert ("rerank_active_requests",) not in seen, "though no master removed them"
        multiprocess.clear(folder)
        assert REQUESTS not in scrape(address), "a service that starts again counts from 0"


def test_a_process_that_takes_a_dead_ones_slot_begins_without_its_levels(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    count_in_a_worker(folder, 5)
    assert list(folder.glob("gauge_*"))
    silent = "from webapp.telemetry import multiprocess; multiprocess.slot()"
    subprocess.run([sys.executable, "-c", silent], env=environment(folder), check=True)
    assert not list(folder.glob("gauge_*"))
    assert figures(folder)[REQUESTS] == 5


def test_levels_are_those_of_the_workers_that_live_and_asking_takes_no_place_from_anybody(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    active = ("rerank_active_requests",)
    with worker(folder, 1):
        with worker(folder, 1):
            assert figures(folder)[active] == 6
        assert figures(folder)[active] == 3
        with worker(folder, 1):
            assert figures(folder)[active] == 6
            assert len(list(folder.glob("slot-*.lock"))) == 2
    assert active not in figures(folder)
    assert figures(folder)[REQUESTS] == 3


DEATHS = 200


def test_two_hundred_kills_leave_few_files_and_every_count_once(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    master = subprocess.Popen(
        [sys.executable, "-c", MASTER],
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    before = {}
    for death in range(DEATHS):
        master.stdin.write(f"{1 + death % 7}\n")
        master.stdin.flush()
        told = int(master.stdout.readline())
        seen = figures(folder)
        assert seen[REQUESTS] >= told
        fell = {
            name: (value, seen.get(name))
            for name, value in before.items()
            if name[0].endswith(("_total", "_count", "_sum", "_bucket")) and seen.get(name, -1) < value
        }
        assert not fell, "a counter went back"
        assert seen["rerank_active_requests",] <= 2
        before = seen
    told = int(master.communicate(timeout=PATIENCE_S)[0])
    assert master.returncode == 0
    seen = figures(folder)
    # What was counted a moment before the kill may not have been told of.
    assert told <= seen[REQUESTS] <= told + DEATHS + 2
    assert seen.get(("rerank_active_requests",), 0) == 0
    assert seen["rerank_metrics_files",] <= 4 * (2 + 1), "a set for each process that lived at the same time"


def test_a_file_that_a_kill_left_empty_hides_nothing(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    count_in_a_worker(folder, 1)
    (folder / "counter_9.db").touch()
    assert figures(folder)[REQUESTS] == 1


def test_a_pusher_that_is_gone_or_hangs_hides_nothing(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    count_in_a_worker(folder, 1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "pusher.sock"))
        silent.listen()
        with exporter(folder, tmp_path / "pusher.sock") as address:
            assert scrape(address)["rerank_pusher_up",] == 0
            silent.close()
            seen = scrape(address)
            assert seen["rerank_pusher_up",] == 0
            assert seen[REQUESTS] == 1


def test_a_client_that_says_nothing_holds_nobody_up(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    with exporter(folder, tmp_path / "nobody.sock") as address, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(address))
        assert scrape(address)["rerank_metrics_files",] == 0


def test_a_client_that_leaves_is_no_news(tmp_path, capfd):
    folder = tmp_path / "figures"
    folder.mkdir()
    with exporter(folder, tmp_path / "nobody.sock") as address:
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as leaving:
                leaving.connect(str(address))
                leaving.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert scrape(address)
    assert "Traceback" not in capfd.readouterr().err


def test_the_folder_is_private_and_each_service_and_color_has_its_own(tmp_path):
    folders = [multiprocess.folder(tmp_path / "a"), multiprocess.folder(tmp_path / "a", "green")]
    folders.append(multiprocess.folder(tmp_path / "b"))
    try:
        assert len(set(folders)) == 3
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
        assert multiprocess.folder(tmp_path / "a") == folders[0]
    finally:
        for folder in folders:
            folder.rmdir()


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path, monkeypatch):
    shared, state_dir = tmp_path / "shm", tmp_path / "state"
    (state_dir / "run").mkdir(parents=True)
    shared.mkdir()
    monkeypatch.setattr(multiprocess, "SHARED_MEMORY", shared)
    name = multiprocess.folder(state_dir)
    assert name.parent == shared
    name.rmdir()
    name.symlink_to(tmp_path)
    assert multiprocess.folder(state_dir) == state_dir / "run" / "metrics"
    name.unlink()
    name.mkdir(mode=0o755)
    assert multiprocess.folder(state_dir) == state_dir / "run" / "metrics"
    monkeypatch.setattr(multiprocess, "SHARED_MEMORY", Path("/proc/none"))
    with pytest.raises(SetupError, match="RERANK_STATE_DIR"):
        multiprocess.folder(Path("/proc/nowhere"))


def test_the_exporter_is_small():
    said = subprocess.run(
        [sys.executable, "-c", "import webapp.telemetry.exporter, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"flask", "gevent", "numpy", "openvino", "pydantic", "zmq"} & set(said)
