"""The CPU time of a tree of processes, and the cores that it may use."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry
from running import PATIENCE_S

from webapp.config import resources
from webapp.telemetry.cpu import CpuTime, parent_of
from webapp.telemetry.exporter import Cpu

TREE = """
import os, sys, time
WORK_S = 0.3

def work():
    while time.process_time() < WORK_S:
        pass

for line in sys.stdin:
    if line.strip() == "churn":
        for _ in range(300):
            if not (child := os.fork()):
                os._exit(0)
            os.waitpid(child, 0)
        print(0, sum(os.times()[:4]), flush=True)
        continue
    told, tell = os.pipe()
    go_on, let_go = os.pipe()
    child = os.fork()
    if not child:
        grandchild = os.fork()
        if not grandchild:
            work()
            os._exit(0)
        os.waitpid(grandchild, 0)
        work()
        os.write(tell, b".")
        if line.strip() == "live":
            time.sleep(3600)
        os._exit(0)
    os.read(told, 1)
    if line.strip() == "die":
        os.waitpid(child, 0)
    print(child, sum(os.times()[:4]), flush=True)
"""
"""For each line of input, a child and a grandchild of it take CPU time. The grandchild has ended when it answers.

At "churn", many children do nothing.
"""

TOLERANCE_S = 0.05
"""The kernel counts in hundredths of a second, of each process."""


@pytest.fixture
def tree():
    command = [sys.executable, "-c", TREE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        children = []

        def take(what):
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            child, seconds = process.stdout.readline().split()
            if int(child):
                children.append(int(child))
            return float(seconds)

        yield process, take
        for child in children:
            if parent_of(child) == process.pid:
                os.kill(child, 9)
        process.kill()


def test_the_time_of_dead_and_of_living_descendants_counts_once(tree):
    process, take = tree
    time = CpuTime(process.pid)
    before = time.seconds()
    of_parent_and_dead = take("die")
    assert time.seconds() == pytest.approx(of_parent_and_dead, abs=TOLERANCE_S)
    assert time.seconds() - before >= 0.6 - TOLERANCE_S, "of a child and of its own dead child"
    of_parent_and_dead = take("live")
    assert time.seconds() == pytest.approx(of_parent_and_dead + 0.6, abs=TOLERANCE_S), "and of one that lives"


def test_the_time_never_falls(tree):
    process, take = tree
    take("die")
    time = CpuTime(process.pid)
    before = time.seconds()
    process.kill()
    process.wait(PATIENCE_S)
    assert time.seconds() == before > 0


def test_children_that_come_and_go_while_it_is_read_disturb_nothing(tree):
    process, take = tree
    time, seen = CpuTime(process.pid), []
    with ThreadPoolExecutor() as pool:
        churning = pool.submit(take, "churn")
        while not churning.done():
            seen.append(time.seconds())
    assert seen == sorted(seen)
    assert time.seconds() == pytest.approx(churning.result(), abs=TOLERANCE_S)


def test_the_parent_of_a_process_is_found_whatever_the_process_calls_itself(tmp_path):
    program = tmp_path / ") S 1 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "3600"]) as process:
        assert parent_of(process.pid) == os.getpid()
        process.kill()
    assert parent_of(process.pid) == 0


@pytest.fixture
def group(tmp_path, monkeypatch):
    """The control group that we are in, for a test to limit."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/service/inner\n")
    monkeypatch.setattr(resources, "_PROC", tmp_path)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    inner = tmp_path / "service" / "inner"
    inner.mkdir(parents=True)
    return inner


@pytest.mark.parametrize(("inner", "outer", "expected"), [("max", "150000", 1.5), ("50000", "max", 0.5)])
def test_a_quota_of_a_control_group_limits_the_cores(group, monkeypatch, inner, outer, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    (group / "cpu.max").write_text("max 100000\n")
    assert resources.cores() == 4
    (group / "cpu.max").write_text(f"{inner} 100000\n")
    (group.parent / "cpu.max").write_text(f"{outer} 100000\n")
    assert resources.cores() == expected


def test_seconds_and_cores_are_metrics(group, tree):
    (group / "cpu.max").write_text("50000 100000\n")
    process, take = tree
    registry = CollectorRegistry()
    registry.register(Cpu(process.pid))
    assert registry.get_sample_value("rerank_cpu_seconds_total") < take("die") + TOLERANCE_S
    assert registry.get_sample_value("rerank_cpu_seconds_total") > 0.5
    assert registry.get_sample_value("rerank_cpu_cores") == 0.5
