"""What our code replaces in libraries, or uses of their inside, is there, and the library still uses it."""

import ast
import importlib
import inspect
import time

import engineio.socket
import pytest
import socketio
from engineio import base_server, base_socket
from gevent import baseserver, hub
from gunicorn.app import base as gunicorn_app
from gunicorn.arbiter import Arbiter
from gunicorn.config import KNOWN_SETTINGS
from gunicorn.http import wsgi
from prometheus_client import values
from upstream.sources import ROOT, SOURCES, imports, named, parsed, tree
from upstream.uses import ASSIGNED, CLOCKS, REACHED, REPLACED

from supervisor import socket_manager


def replaced():
    """The full names of what our code assigns to in the libraries' modules and classes."""
    found = set()
    for path in SOURCES:
        known = imports(tree(path))
        targets = (target for node in ast.walk(tree(path)) if isinstance(node, ast.Assign) for target in node.targets)
        for target in targets:
            root, *names = ast.unparse(target).split(".")
            place = known.get(root)
            if isinstance(target, ast.Attribute) and (inspect.isclass(place) or inspect.ismodule(place)):
                module = place.__name__ if inspect.ismodule(place) else f"{place.__module__}.{place.__qualname__}"
                found.add(".".join([module, *names]))
    return found


def test_all_that_is_replaced_is_known_here():
    assert replaced() == REPLACED.keys()


@pytest.mark.parametrize("name", [*REPLACED, *REACHED])
def test_what_is_replaced_or_used_is_there(name):
    named(name)


@pytest.mark.parametrize("name", ASSIGNED)
def test_instances_have_the_attributes_that_are_used(name):
    classes = inspect.getmro(named(name))[:-1]
    for attribute in ASSIGNED[name]:
        assigned = any(f"self.{attribute} = " in inspect.getsource(each) for each in classes)
        assert assigned or hasattr(classes[0], attribute), f"{name}.{attribute}"


@pytest.mark.parametrize("name", CLOCKS)
def test_a_module_whose_clock_is_replaced_waits_by_it(name):
    module = importlib.import_module(name)
    assert module.time is time or type(module.time).__name__ == "SteadyTime"
    calls = {ast.unparse(node.func) for node in ast.walk(parsed(module)) if isinstance(node, ast.Call)}
    assert "time.time" in calls, f"{name} uses the time of day no more: its entry in CLOCKS can go"


def test_gunicorn_knows_every_setting_of_ours():
    """It ignores a name that it does not know."""
    assert "if k not in self.cfg.settings" in inspect.getsource(gunicorn_app)
    hooks_and_settings = {
        name.id
        for node in tree(ROOT / "gunicorn_config.py").body
        if isinstance(node, ast.Assign)
        for name in node.targets
        if isinstance(name, ast.Name) and not name.id.startswith("_")
    } | {node.name for node in tree(ROOT / "gunicorn_config.py").body if isinstance(node, ast.FunctionDef)}
    known = {setting.name for setting in KNOWN_SETTINGS}
    assert {name for name in hooks_and_settings if not name.startswith("_")} - known == set()


def test_gunicorn_still_does_what_our_worker_relies_on():
    assert '"gunicorn.socket"' in inspect.getsource(wsgi)
    assert (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR) == (3, 4), (
        "exit codes of ours: 3 ends the master, 1 does not"
    )
    assert "murder_workers" in inspect.getsource(Arbiter.run)


def test_gevent_hands_an_accept_that_failed_to_the_hub():
    assert "self.loop.handle_error(" in inspect.getsource(baseserver.BaseServer)
    assert list(inspect.signature(hub.Hub.handle_error).parameters) == ["self", "context", "type", "value", "tb"]


def test_prometheus_client_makes_values_by_the_class_that_is_replaced():
    source = inspect.getsource(values.MultiProcessValue)
    assert "MmapedDict(" in source
    assert "'{}_{}.db'" in source, "the names of files, by which slots are found"
    assert list(inspect.signature(values.MultiProcessValue).parameters) == ["process_identifier"]


def test_supervisor_keeps_a_programs_socket_open_while_somebody_refers_to_it():
    source = inspect.getsource(socket_manager)
    assert "class ReferenceCounter" in source
    assert "path" in inspect.getsource(named("supervisor.datatypes.UnixStreamSocketConfig"))


def test_engineio_closes_a_connection_without_waiting_or_a_last_packet():
    assert inspect.signature(engineio.socket.Socket.close).bind("self", wait=False, abort=True, reason="stalled")
    assert "self.queue = " in inspect.getsource(base_socket)
    assert "self.sockets = {}" in inspect.getsource(base_server)


@pytest.mark.parametrize(
    ("module", "package"),
    [("socketio.redis_manager", "redis"), ("engineio.client", "requests"), ("engineio.client", "websocket")],
)
def test_socketio_does_without_the_packages_that_the_pusher_hides_from_it(module, package):
    """An ImportError is expected where a package is missing."""
    tries = [node for node in ast.walk(parsed(importlib.import_module(module))) if isinstance(node, ast.Try)]
    guarded = [ast.unparse(step) for node in tries for step in node.body]
    assert f"import {package}" in guarded, f"{module} imports {package} otherwise: see pusher/main.py"
    assert socketio.Server
