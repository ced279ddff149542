"""What scripts/serve shows while it installs, in a pipe and on a terminal."""

import os
import pty
import subprocess
from pathlib import Path

STAGES = Path(__file__).resolve().parents[2] / "scripts" / "stages.sh"


def shell(script, **options):
    return subprocess.Popen(["/bin/bash", "-c", f'set -u\nsource "{STAGES}"\n{script}'], **options)


def said(script):
    with shell(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        return process.communicate()[0].splitlines()


def test_in_a_pipe_each_stage_is_told_when_it_begins_and_when_it_has_ended():
    lines = said('stage 2 "torch" echo found\ntell_stages')
    assert lines[:2] == ["[2/4] Installing torch", "found"]
    assert lines[2].startswith("[2/4] Installing torch: done in ")
    assert lines[3].startswith("Installed in ")


def test_a_stage_that_fails_or_exits_is_not_told_as_done_and_its_code_is_known():
    script = 'bad() { echo why >&2; exit 3; }\nstage 1 "nginx" bad || echo "failed with $?"'
    assert said(script) == ["[1/4] Installing nginx", "why", "failed with 3"]


def test_where_nothing_is_installed_nothing_is_told():
    assert said("tell_stages") == []


def test_on_a_terminal_a_bar_goes_on_until_the_stage_has_ended(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ours, theirs = pty.openpty()
    process = shell(f'stage 3 "the rest" cat "{fifo}"', stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"[##########..........] 0 s" not in seen:
        seen += os.read(ours, 1024)
    fifo.write_text("a remark\n")
    try:
        while part := os.read(ours, 1024):
            seen += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    lines = seen.decode().replace("\r\n", "\n").splitlines()
    assert lines[-2].endswith("a remark")
    assert lines[-1].startswith("[3/4] Installing the rest: done in ")
    os.close(ours)
