"""supervisord as we run it, with programs that do nothing."""

import json
import signal
import subprocess
import sys

import pytest
from running import wait_for

ASLEEP = """
from supervisor import loggers, poller
from logs import keeper

poll = poller.Poller.poll

def sleep(self, _):
    keeper.Options.keeping.open(log := loggers.Logger(), "", 0, 0)
    log.info(b"{}\\n")  # after all that was said before
    return poll(self, 3600)  # as good as for ever

poller.Poller.poll = sleep
keeper.main()
"""

BROKEN_WAKE = """
from logs import keeper

def fail(self):
    raise ValueError("broken")

keeper.Wake.handle_read_event = fail
keeper.main()
"""

BROKEN_LINES = """
from logs import keeper

def fail(*_, **__):
    raise ValueError("broken")

keeper.translate = fail
keeper.main()
"""

PATIENCE_S = 60


@pytest.fixture
def supervisord(tmp_path):
    """supervisord, whose sleep only an event can end, with these programs running."""
    started = []

    def start(programs):
        sections = [f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/log\npidfile={tmp_path}/pid"]
        for name, lines in programs.items():
            command = "setpriv --pdeathsig KILL sh -c 'echo up; exec sleep 3600'"
            log = f"redirect_stderr=true\nstdout_logfile={tmp_path}/{name}.log"
            sections.append(f"[program:{name}]\ncommand={command}\n{log}\n{lines}")
        (tmp_path / "conf").write_text("\n".join(sections))
        process = subprocess.Popen(
            [sys.executable, "-c", ASLEEP, "--to", "stdout", "-c", str(tmp_path / "conf")],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        said = set()
        while not {name for name, lines in programs.items() if "autostart=false" not in lines} <= said:
            event = json.loads(process.stdout.readline())
            said.add(event.get("service"))
        while json.loads(process.stdout.readline()):
            pass  # until it sleeps
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_it_is_told_wakes_it_and_it_stops_one_after_the_other_without_a_sleep(supervisord):
    idle = {f"idle{number}": "priority=2\nautostart=false" for number in range(5)}
    process = supervisord({"first": "priority=1", "last": "priority=3", **idle, "never": "priority=4\nautostart=false"})
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=PATIENCE_S)
    messages = [json.loads(line).get("message", "") for line in told.splitlines()]
    stops = [message for message in messages if message.startswith("stopped")]
    assert [stop.split()[1] for stop in stops] == ["last", "first"]
    assert process.returncode == 0


def conf(tmp_path, *lines):
    path = tmp_path / "conf"
    path.write_text(
        "\n".join([f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/log\npidfile={tmp_path}/pid", *lines])
    )
    return str(path)


def test_an_error_while_it_is_woken_is_logged_and_ends_nothing(tmp_path):
    command = [sys.executable, "-c", BROKEN_WAKE, "--to", "stdout", "-c", conf(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while "supervisord started" not in process.stdout.readline():
                pass
            told = ""
            while "signals no longer wake supervisord: ValueError('broken')" not in told:
                process.send_signal(signal.SIGUSR2)  # the first may come before it listens
                while "log reopen request" not in (line := process.stdout.readline()):
                    told += line or pytest.fail("it ended")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_lines_that_cannot_be_shaped_are_kept_as_they_are_and_the_program_is_read_to_its_end(tmp_path):
    program = ["[program:x]", "command=sh -c 'echo one; sleep 0.1; echo two'", "startsecs=0", "autorestart=false"]
    log = [f"stdout_logfile={tmp_path}/x.log", "redirect_stderr=true"]
    command = [sys.executable, "-c", BROKEN_LINES, "-c", conf(tmp_path, *program, *log)]

    def told():
        return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: "exited: x" in told(), "the program has ended")
            assert (tmp_path / "x.log").read_text() == "one\ntwo\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
