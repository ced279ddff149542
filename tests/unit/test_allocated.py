"""Metrics where their files find no room: the process goes on, and counts in its memory."""

import os
import subprocess
import sys

import pytest
from prometheus_client.mmap_dict import MmapedDict
from running import PATIENCE_S

from webapp.telemetry import multiprocess
from webapp.telemetry.exporter import Workers

BEGIN = """
import errno, os, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter
from webapp.telemetry import multiprocess
from webapp.telemetry.metrics import Metrics

folder = Path(os.environ[multiprocess.VARIABLE])

def fill():  # the disk
    room = os.open(folder / "filled", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(room, bytes(4096)):
            pass
    except OSError as error:
        assert error.errno == errno.ENOSPC

def refuse(*_):
    raise OSError(errno.ENOSPC, "no room")

def begin():
    global counted
    Metrics(CollectorRegistry())
    counted = Counter("counted", "Of this test.", ["name"], registry=CollectorRegistry())
    count("first")

def count(name):
    counted.labels(name).inc()
    counted.labels(name).inc()
    assert counted.labels(name)._value.get() == 2
"""

MANY = 1000
"""Names that one file can't hold unless it grows."""

AGES = f"""
for number in range({MANY}):
    count(f"number {{number}}")
"""

DIVIDES = """
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
count("of the child")
"""


def run(script, folder, *prefix):
    """What it says as warnings. Each script ends by itself, and in no other way."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", BEGIN + script],
        env={**os.environ, multiprocess.VARIABLE: str(folder)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def kept(folder):
    """Name -> value, of what was counted and is in files."""
    found = {}
    for path in folder.glob("counter_*.db"):
        if path.stat().st_size:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):
                if '"counted_total"' in key:
                    found[key.split('"name": "')[1].split('"')[0]] = value
    return found


def allocated(path):
    return path.stat().st_blocks * 512 >= path.stat().st_size > 0


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "figures"
    path.mkdir()
    return path


@pytest.fixture
def small_disk(folder):
    """How a command gets a folder of its own that holds no more than 1 MiB."""
    mount = f'mount -t tmpfs -o size=1m tmpfs {folder} && exec "$@"'
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user can't mount anything")
    return prefix


@pytest.mark.parametrize(
    "script",
    [
        "fill(); begin()",
        "begin(); fill()" + AGES,
        "begin(); fill()" + DIVIDES,
        "fill(); begin()" + DIVIDES,
    ],
    ids=["at the start", "when a file grows", "after a fork", "before and after a fork"],
)
def test_a_full_disk_ends_no_process_and_is_told_once_by_each(folder, small_disk, script):
    told = run(script, folder, *small_disk)
    assert told
    assert all("metrics can't be kept: [Errno 28]" in line for line in told)
    assert len(told) <= 1 + script.count("fork")


def test_where_room_is_refused_nothing_is_written_to_a_file(folder):
    told = run("os.posix_fallocate = refuse; begin()" + AGES, folder)
    assert len(told) == 1
    assert kept(folder) == {}
    assert [metric.name for metric in Workers(folder).collect()] == ["rerank_metrics_files"]


def test_a_file_that_can_not_grow_keeps_what_it_has_and_goes_on_counting_it(folder):
    told = run("begin(); os.posix_fallocate = refuse" + AGES + 'counted.labels("first").inc()', folder)
    assert len(told) == 1
    found = kept(folder)
    assert 1 < len(found) < MANY
    assert found.pop("first") == 3
    assert set(found.values()) == {2}


def test_all_files_have_their_room_before_they_are_written_to_and_while_they_grow(folder):
    assert run("begin()" + AGES, folder) == []
    assert kept(folder) == {"first": 2, **{f"number {number}": 2 for number in range(MANY)}}
    assert all(allocated(path) for path in folder.glob("*.db"))


def test_a_file_of_the_last_process_that_has_no_room_yet_gets_it_and_keeps_its_counts(folder):
    run("begin()", folder)
    path = folder / "counter_0.db"
    before = path.read_bytes()
    path.write_bytes(before.rstrip(b"\0") + bytes(8))
    os.truncate(path, 2 * len(before))
    assert not allocated(path)
    run("begin.__globals__['count'] = lambda _: None; begin(); counted.labels('first').inc()", folder)
    assert allocated(path)
    assert kept(folder) == {"first": 3}


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_without_a_folder_or_with_a_damaged_file_work_goes_on(folder, harm):
    if harm == "missing":
        folder.rmdir()
    else:
        (folder / "counter_0.db").write_bytes(b"\xff\x00\x00\x00" + b"\xee" * 65532)
    told = run("begin()" + DIVIDES, folder)
    assert told
    assert all("metrics can't be kept" in line for line in told)
