from types import SimpleNamespace

import pytest
from supervisor.states import SupervisorStates

from webapp.stack.supervisor.logging import PromptSupervisor


class AsleepError(Exception):
    pass


class Program:
    """A group of one, up once it was given its turn."""

    def __init__(self):
        self.up = False

    def transition(self):
        self.up = True

    def finish(self, _pid, _status):
        self.up = False

    def get_dispatchers(self):
        return {}

    def __lt__(self, other):
        return False


def sleep(_timeout):
    raise AsleepError


def supervisord(program, deaths=()):
    remaining = iter(deaths)
    options = SimpleNamespace(
        waitpid=lambda: next(remaining, (None, None)),
        pidhistory=dict.fromkeys((pid for pid, _ in deaths), program),
        poller=SimpleNamespace(poll=sleep),
        get_socket_map=dict,
        mood=SupervisorStates.RUNNING,
    )
    made = PromptSupervisor(options)
    made.process_groups["program"] = program
    return made


def test_programs_are_started_before_supervisord_first_sleeps():
    program = Program()
    with pytest.raises(AsleepError):
        supervisord(program).runforever()
    assert program.up


def test_a_program_that_died_is_started_again_before_supervisord_sleeps():
    program = Program()
    supervisord(program, deaths=[(7, 0)]).reap()
    assert program.up
