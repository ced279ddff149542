"""supervisord as we run it, with programs that do nothing, or say much."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from running import wait_for

ASLEEP = """
from supervisor import loggers, poller
from webapp.stack.supervisor import logging as keeper

poll = poller.Poller.poll

def sleep(self, _):
    keeper.Options.store.open(log := loggers.Logger(), "", 0, 0)
    log.info(b"{}\\n")  # after all that was said before
    return poll(self, 3600)  # as good as for ever

poller.Poller.poll = sleep
keeper.main()
"""

BROKEN_WAKE = """
from webapp.stack.supervisor import logging as keeper

def fail(self):
    raise ValueError("broken")

keeper.SelfPipe.handle_read_event = fail
keeper.main()
"""

BROKEN_LINES = """
from webapp.stack.supervisor import logging as keeper

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
    output, _ = process.communicate(timeout=PATIENCE_S)
    messages = [json.loads(line).get("message", "") for line in output.splitlines()]
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
            output = ""
            while "signals no longer wake supervisord: ValueError('broken')" not in output:
                process.send_signal(signal.SIGUSR2)  # the first may come before it listens
                while "log reopen request" not in (line := process.stdout.readline()):
                    output += line or pytest.fail("it ended")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_lines_that_cannot_be_shaped_are_kept_as_they_are_and_the_program_is_read_to_its_end(tmp_path):
    program = ["[program:x]", "command=sh -c 'echo one; sleep 0.1; echo two'", "startsecs=0", "autorestart=false"]
    log = [f"stdout_logfile={tmp_path}/x.log", "redirect_stderr=true"]
    command = [sys.executable, "-c", BROKEN_LINES, "-c", conf(tmp_path, *program, *log)]

    def log_text():
        return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: "exited: x" in log_text(), "the program has ended")
            wait_for(lambda: (tmp_path / "x.log").read_text() == "one\ntwo\n", "its lines are there")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


CHATTERS = """
import os, signal, sys
progress = open(sys.argv[1], "ab", buffering=0)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
while True:
    for _ in range(2000):
        try:
            os.write(1, b"x" * 1000 + b"\\n")
        except BlockingIOError:
            progress.write(b"refused\\n")
    progress.write(b"said all\\n")
    signal.sigwait([signal.SIGUSR1])
"""


class Loud:
    """supervisord with a program that says two megabytes, more than any pipe holds."""

    def __init__(self, directory, *options):
        self.progress = directory / "progress"
        self.progress.touch()
        (directory / "chatters.py").write_text(CHATTERS)
        self.server = f"unix://{directory}/sock"
        lines = [
            f"[unix_http_server]\nfile={directory}/sock",
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            f"[program:x]\ncommand=setpriv --pdeathsig KILL {sys.executable} {directory}/chatters.py {self.progress}",
            f"startsecs=0\nredirect_stderr=true\nstdout_logfile={directory}/x.log",
        ]
        self.command = [
            sys.executable,
            "-m",
            "webapp.stack.supervisor.logging",
            *options,
            "-c",
            conf(directory, *lines),
        ]

    def ctl(self, *arguments):
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-s", self.server, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S).stdout

    def has_said_all(self, times=1):
        return self.progress.read_text().count("said all") == times


def test_a_reader_that_stops_holds_up_neither_supervisord_nor_its_programs(tmp_path):
    loud = Loud(tmp_path, "--to", "stdout")
    with subprocess.Popen(loud.command, stdout=subprocess.PIPE) as process:  # nobody reads
        try:
            wait_for(loud.has_said_all, "the program waits for nobody")
            assert "RUNNING" in loud.ctl("status")
            assert "x: stopped" in loud.ctl("restart", "x")
            wait_for(lambda: loud.has_said_all(2), "nor does it when it is started again")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_log_on_a_disk_that_stalls_holds_up_neither_supervisord_nor_its_programs(tmp_path):
    os.mkfifo(tmp_path / "x.log")  # opening it blocks
    loud = Loud(tmp_path)
    with subprocess.Popen(loud.command) as process:
        try:
            wait_for(loud.has_said_all, "the program waits for nobody")
            wait_for(lambda: "RUNNING" in loud.ctl("status"), "it answers")
            loud.ctl("restart", "x")
            wait_for(lambda: loud.has_said_all(2), "nor does it when it is started again")
            wait_for(lambda: (tmp_path / "log").read_text().count("spawned: 'x'") == 2, "the other log goes on")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_program_goes_on_while_supervisord_is_stopped_and_the_log_says_that_lines_are_missing(tmp_path):
    loud = Loud(tmp_path)
    with subprocess.Popen(loud.command) as process:
        try:
            wait_for(loud.has_said_all, "it runs")
            wait_for(lambda: "RUNNING" in loud.ctl("status"), "it answers")
            program = int(loud.ctl("pid", "x"))
            process.send_signal(signal.SIGSTOP)
            os.kill(program, signal.SIGUSR1)
            wait_for(lambda: loud.has_said_all(2), "the program waits for nobody")
            assert "refused" in loud.progress.read_text()
            process.send_signal(signal.SIGCONT)
            missing = "x wrote faster than its lines were read: some may be lost"
            wait_for(lambda: missing in (tmp_path / "log").read_text(), "they are counted")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["HUP", "reload"])
def test_neither_hup_nor_reload_restarts_anything(tmp_path, how):
    loud = Loud(tmp_path)
    with subprocess.Popen(loud.command) as process:
        try:
            wait_for(lambda: "RUNNING" in loud.ctl("status"), "it answers")
            program = loud.ctl("pid", "x")
            if how == "HUP":
                process.send_signal(signal.SIGHUP)
                wait_for(lambda: "received SIGHUP" in (tmp_path / "log").read_text(), "it has heard")
            else:
                assert "Restarted" in loud.ctl("reload"), "supervisorctl's word for it"
            assert loud.ctl("update") == "", "nothing has changed"
            assert loud.ctl("pid", "x") == program
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            assert (tmp_path / "log").read_text().count("spawned: 'x'") == 1
        finally:
            process.kill()


EARLY = """
import os, signal
print("it begins", flush=True)
os.kill(os.getpid(), signal.SIGHUP)
print("it lives", flush=True)
signal.pause()
"""


def test_a_program_that_is_told_to_reload_before_it_has_a_handler_goes_on(tmp_path):
    loud = Loud(tmp_path)
    (tmp_path / "chatters.py").write_text(EARLY)
    with subprocess.Popen(loud.command) as process:
        try:
            log = tmp_path / "x.log"
            wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 2, "two lines")
            assert ["it begins" in line for line in log.read_text().splitlines()] == [True, False]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


DYING = """
import os, signal, subprocess
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
heir = subprocess.Popen(["sleep", "3600"])  # it holds the pipe: nobody reads to its end
os.write(2, f"heir {heir.pid}\\n".encode())
signal.sigwait([signal.SIGUSR1])
for number in range(900):
    os.write(1, f"{number:999}\\n".encode())
os.write(1, b"the last, without an end")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_all_that_a_killed_program_said_is_kept_its_last_line_too(tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    program = [f"[program:x]\ncommand={sys.executable} {tmp_path}/dying.py", "startsecs=0\nautorestart=false"]
    logs = [f"stdout_logfile={tmp_path}/x.log\nstderr_logfile={tmp_path}/heir.log"]
    command = [sys.executable, "-m", "webapp.stack.supervisor.logging", "-c", conf(tmp_path, *program, *logs)]

    def messages_in(name):
        lines = (tmp_path / name).read_text().splitlines() if (tmp_path / name).exists() else []
        return [json.loads(line)["message"] for line in lines]

    with subprocess.Popen(command) as process:
        heir = None
        try:
            heir = int(wait_for(lambda: messages_in("heir.log"), "the program waits")[0].split()[1])
            program = psutil.Process(heir).parent()
            process.send_signal(signal.SIGSTOP)  # it reads none of this before the program is dead
            program.send_signal(signal.SIGUSR1)
            wait_for(lambda: program.status() == psutil.STATUS_ZOMBIE, "the program has died")
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: any(line.startswith("exited: x") for line in messages_in("log")), "that is noticed")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            *lines, last = messages_in("x.log")
            assert [int(line) for line in lines] == list(range(900))
            assert last == "the last, without an end"
        finally:
            process.kill()
            if heir:
                os.kill(heir, signal.SIGKILL)
