"""What our supervisord does beyond its own, on supervisor's own socket manager and events."""

import atexit
import os
import signal
import socket
from types import SimpleNamespace

import pytest
from msgspec import structs
from supervisor.datatypes import UnixStreamSocketConfig
from supervisor.socket_manager import SocketManager
from supervisor.states import ProcessStates, SupervisorStates

from supervisor import events
from webapp.stack.nginx.traffic_split import point
from webapp.stack.releases import state
from webapp.stack.supervisor.plugin import Extensions

RUNNING, STOPPED = ProcessStates.RUNNING, ProcessStates.STOPPED


class Program:
    """Supervisor's, as far as it is looked at."""

    def __init__(self, name, group):
        self.config = SimpleNamespace(name=name)
        self.group = group
        self.backoff = 0


class Supervisord:
    """One with a webapp that has a socket, and an nginx that has none."""

    def __init__(self, directory):
        self.door = directory / "webapp.sock"
        self.directory = directory
        self.run = directory / "run"
        self.run.mkdir()
        self.given_up = self.run / "given-up"
        self.own = None
        self.now = 0.0
        self.said = []
        logger = SimpleNamespace(
            critical=lambda message, **fields: self.said.append(message % fields),
            warn=self.said.append,
            info=self.said.append,
        )
        self.options = SimpleNamespace(mood=SupervisorStates.RUNNING, logger=logger)
        self.process_groups = {name: SimpleNamespace(config=SimpleNamespace(name=name)) for name in ("webapp", "nginx")}
        for name, group in self.process_groups.items():
            group.processes = {name: Program(name, group)}
        self.webapp = self.process_groups["webapp"].processes["webapp"]
        self.process_groups["webapp"].socket_manager = SocketManager(UnixStreamSocketConfig(str(self.door)))
        Extensions(self, state_dir=str(directory), clock=lambda: self.now)

    def start(self):
        """Start as an fcgi-program does: take a reference to the socket, then send the event."""
        self.own = self.process_groups["webapp"].socket_manager.get_socket()
        events.notify(events.ProcessStateStartingEvent(self.webapp, STOPPED))

    def end(self, how=events.ProcessStateStoppedEvent):
        """End as a program does: send the event, then drop the reference."""
        self.webapp.pid = 1
        events.notify(how(self.webapp, RUNNING))
        self.own = None

    def tick(self, later_s=0.0):
        """Tell supervisor's listeners that time went on; as often as it would, every five seconds."""
        for _ in range(int(later_s // 5)):
            self.now += 5
            events.notify(events.Tick5Event(0, self))
        events.notify(events.Tick5Event(0, self))

    @property
    def lets_in(self):
        with socket.socket(socket.AF_UNIX) as visitor:
            try:
                visitor.connect(str(self.door))
            except OSError:
                return False
            return True


@pytest.fixture
def supervisord(tmp_path, monkeypatch):
    monkeypatch.setattr(atexit, "register", lambda *asked: asked)
    events.clear()
    supervisord = Supervisord(tmp_path)
    yield supervisord
    events.notify(events.SupervisorStoppingEvent())
    supervisord.end()
    events.clear()


@pytest.mark.parametrize("how", [events.ProcessStateStoppedEvent, events.ProcessStateExitedEvent])
def test_the_door_stays_open_between_the_halves_of_a_restart(supervisord, how):
    supervisord.start()
    supervisord.end(how)
    supervisord.tick()
    assert supervisord.lets_in
    supervisord.start()
    supervisord.tick(later_s=60)
    assert supervisord.lets_in


def test_a_program_that_is_restarted_while_supervisord_stands_still_keeps_its_door(supervisord):
    supervisord.start()
    supervisord.tick(later_s=10)
    supervisord.end()
    supervisord.now += 60
    supervisord.tick()
    assert supervisord.lets_in, "the restart has waited, too"
    supervisord.tick(later_s=5)
    assert not supervisord.lets_in


def test_a_program_that_stays_stopped_loses_its_door_and_gets_it_back(supervisord):
    supervisord.start()
    supervisord.end()
    supervisord.tick(later_s=5)
    assert not supervisord.lets_in
    supervisord.start()
    supervisord.end()
    supervisord.tick()
    assert supervisord.lets_in, "and keeps it in the next restart"


def test_the_door_closes_when_supervisord_stops(supervisord):
    supervisord.start()
    events.notify(events.SupervisorStoppingEvent())
    assert supervisord.lets_in, "the program still has it"
    supervisord.end()
    assert not supervisord.lets_in


def test_a_needed_program_that_is_given_up_ends_everything(supervisord):
    supervisord.start()
    supervisord.end()
    nginx = supervisord.process_groups["nginx"].processes["nginx"]
    events.notify(events.ProcessStateFatalEvent(nginx, STOPPED))
    assert supervisord.options.mood == SupervisorStates.SHUTDOWN
    assert supervisord.given_up.read_text() == "nginx"
    assert supervisord.said == ["nginx was given up: everything is stopped"]
    assert not supervisord.lets_in, "the waiting caller is told"


only_green_is_needed = pytest.mark.parametrize(
    ("name", "mood"),
    [("webapp-blue", SupervisorStates.RUNNING), ("webapp-green", SupervisorStates.SHUTDOWN)],
    ids=["webapp-blue", "webapp-green"],
)


@only_green_is_needed
def test_a_color_that_is_given_up_ends_everything_if_it_is_the_active_one(supervisord, name, mood):
    state.write(supervisord.directory, state.begin("green"))
    color = Program(name, SimpleNamespace(config=SimpleNamespace(name=name)))
    events.notify(events.ProcessStateFatalEvent(color, STOPPED))
    assert supervisord.options.mood == mood


@only_green_is_needed
@pytest.mark.parametrize("damaged", ["removed", "garbage"])
def test_where_the_colors_can_t_be_read_the_color_that_the_links_name_is_needed(supervisord, damaged, name, mood):
    directory = supervisord.directory
    if damaged == "garbage":
        (directory / state.FILE).write_text("garbage")
    point(supervisord.run, "blue", other="green", percent=10, fallback="green")
    color = Program(name, SimpleNamespace(config=SimpleNamespace(name=name)))
    events.notify(events.ProcessStateFatalEvent(color, STOPPED))
    assert supervisord.options.mood == mood


@pytest.mark.parametrize("name", ["webapp-blue", "webapp-green"])
def test_where_nothing_tells_which_color_serves_each_is_needed(supervisord, name):
    color = Program(name, SimpleNamespace(config=SimpleNamespace(name=name)))
    events.notify(events.ProcessStateFatalEvent(color, STOPPED))
    assert supervisord.options.mood == SupervisorStates.SHUTDOWN
    assert supervisord.given_up.read_text() == name


def test_a_door_whose_socket_was_removed_is_made_anew_by_a_restart(supervisord):
    supervisord.start()
    supervisord.door.unlink()
    supervisord.end()
    supervisord.start()
    assert supervisord.lets_in


def test_another_program_may_be_given_up(supervisord):
    pusher = Program("pusher", SimpleNamespace(config=SimpleNamespace(name="pusher")))
    events.notify(events.ProcessStateFatalEvent(pusher, STOPPED))
    assert supervisord.options.mood == SupervisorStates.RUNNING


def test_the_start_of_an_idle_color_is_told_unless_a_deploy_does_it(supervisord):
    directory = supervisord.directory
    colors = state.begin("blue")

    def said_of(name):
        supervisord.said.clear()
        program = Program(name, SimpleNamespace(config=SimpleNamespace(name=name)))
        events.notify(events.ProcessStateStartingEvent(program, STOPPED))
        return supervisord.said

    state.write(directory, colors)
    assert said_of("webapp-blue") == said_of("pusher") == []
    assert "stop it with: reranking stop webapp-green" in said_of("webapp-green")[0]
    state.write(directory, structs.replace(colors, attempt=state.Attempt(number=2, color="green")))
    assert said_of("webapp-green") == []


def test_a_reload_is_left_to_the_parent_only_while_the_parent_lives(supervisord, monkeypatch):
    told = []
    monkeypatch.setattr(os, "kill", lambda *asked: told.append(asked))
    supervisord.reload()
    assert told == [(os.getppid(), signal.SIGHUP)]
    monkeypatch.setattr(os, "getppid", lambda: 1)  # it has died, and its child has another parent
    supervisord.reload()
    assert len(told) == 1
