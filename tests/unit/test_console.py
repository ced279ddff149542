"""Messages that say where to look name what is there; nginx of the balancer waits for nobody who reads its lines."""

import subprocess
import sys

import pytest
from running import PATIENCE_S

from webapp.config.settings import Settings
from webapp.stack.console import Console
from webapp.stack.releases.state import Release, begin
from webapp.stack.releases.tasks import DeployOptions, DeployTasks


def where_of_a_deploy(settings):
    return (
        DeployTasks(begin("blue"), Release(number=2), "green", settings, DeployOptions())
        ._error("it ended")
        .args[0]
        .rpartition("; see ")[2]
    )


@pytest.mark.parametrize("log_to", ["files", "stdout"])
def test_a_file_is_named_only_where_it_is(tmp_path, log_to):
    settings = Settings(state_dir=tmp_path, log_to=log_to)
    console = Console(settings)
    assert str(tmp_path) not in console.where("webapp-green")
    assert str(tmp_path) not in where_of_a_deploy(settings)
    assert "stdout" in where_of_a_deploy(settings)
    settings.log_dir.mkdir()
    (settings.log_dir / "webapp-green.log").touch()
    if log_to == "files":
        assert console.where("webapp-green") == str(settings.log_dir / "webapp-green.log")
        assert where_of_a_deploy(settings) == str(settings.log_dir / "webapp-green.log")


def test_what_has_no_log_yet_has_said_it_above(tmp_path):
    assert Console(Settings(state_dir=tmp_path)).where("supervisord") == "its lines above"


BALANCES = """
import sys
from pathlib import Path
from webapp.stack.console import Console
from webapp.config.settings import Settings

console = Console(Settings(state_dir=Path("unused"), log_to="stdout"))
console.never_wait()
speaks = "import sys; [sys.stderr.write('a line of nginx' + chr(10)) for _ in range(20_000)]"
console.start_nginx([sys.executable, "-c", speaks]).wait()
console.say("it has said all")
"""


def test_nginx_of_the_balancer_waits_for_no_reader():
    command = [sys.executable, "-c", BALANCES]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unread:
        assert unread.wait(PATIENCE_S) == 0
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "a line of nginx\n" in read
    assert '"message":"it has said all"' in read


def test_the_stack_may_be_started_with_stdout_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert Console(Settings(state_dir=tmp_path, log_to="stdout")).form == "json"
