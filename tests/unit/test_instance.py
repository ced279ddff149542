"""The stack that runs in a state directory is found by its lock, and its environment and address become a command's."""

import os
import signal
import subprocess
import sys

import pytest

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack import instance


@pytest.fixture
def settings(tmp_path):
    made = Settings(state_dir=tmp_path, port=9100)
    made.run_dir.mkdir()
    return made


def test_a_stack_owns_its_directory_until_its_lock_is_free(settings):
    with pytest.raises(SetupError, match="no stack runs in"):
        instance.owner(settings)
    with instance.lock_run_dir(settings, pytest.fail) as lock:
        assert instance.owner(settings) == os.getpid()
        assert not instance.is_removed(lock)
        with pytest.raises(SetupError, match="another service runs in"):
            instance.lock_run_dir(settings, pytest.fail)
        (settings.run_dir / instance.LOCK).unlink()
        assert instance.is_removed(lock)
    with pytest.raises(SetupError, match="no stack runs in"):
        instance.owner(settings)


@pytest.mark.parametrize("damage", ["abc", " ", "-1", "²"])
def test_a_damaged_lock_that_is_held_is_another_service(settings, damage):
    with (settings.run_dir / instance.LOCK).open("w+") as held:
        held.write(damage)
        held.flush()
        assert instance.lock(held)
        with pytest.raises(SetupError, match="another service runs in"):
            instance.lock_run_dir(settings, pytest.fail)


def test_what_a_killed_stack_left_is_waited_for(settings):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = (settings.run_dir / instance.LOCK).open("w+")
    held.write(str(dead.pid))
    held.flush()
    assert instance.lock(held)
    said = []

    def say(line):
        said.append(line)
        held.close()

    instance.lock_run_dir(settings, say).close()
    assert said == ["A service was killed here; what is left of it finishes its requests"]


def test_a_command_takes_the_stacks_variables_and_keeps_its_flags(monkeypatch):
    for name, value in {"RERANK_PORT": "9200", "RERANK_WORKERS": "3", "RERANK_CACHE_MB": "1"}.items():
        monkeypatch.setenv(name, value)
    stack = {**os.environ, "RERANK_WORKERS": "5"}
    del stack["RERANK_CACHE_MB"]
    program = [sys.executable, "-c", "input(1)"]
    supervisord = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=stack)
    try:
        supervisord.stdout.read(1)  # before the program runs, its environment can be empty
        instance.adopt_environment(supervisord.pid, keep=["port"])
        assert (os.environ["RERANK_PORT"], load_settings().workers, load_settings().cache_mb) == ("9200", 5, 32)
    finally:
        supervisord.send_signal(signal.SIGKILL)
        supervisord.communicate()
    with pytest.raises(SetupError, match="the stack's environment can't be read"):
        instance.variables_of(supervisord.pid)


def test_the_address_is_told_with_absolute_paths_and_none_is_known_before(settings, tmp_path, monkeypatch):
    assert instance.address(settings.run_dir) == {}
    monkeypatch.chdir(tmp_path)
    instance.note_address(settings.model_copy(update={"tls_cert": "cert.pem", "tls_key": "key.pem"}))
    told = instance.address(settings.run_dir)
    assert (told["host"], told["port"], told["tls"]) == ("127.0.0.1", 9100, "")
    assert (told["tls_cert"], told["tls_key"]) == (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
