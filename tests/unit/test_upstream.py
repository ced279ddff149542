"""What replaces a class of a library, or a part of one, has all that the library uses of it."""

import ast
import importlib
import inspect
import socket
from pathlib import Path
from types import FunctionType

import pytest
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.base_async import AsyncWorker
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from simple_websocket import ws
from supervisor.process import Subprocess
from supervisor.supervisord import Supervisor

from pusher.websocket import WholeSends
from webapp.servers.gunicorn.worker import HeadWithBody
from webapp.stack.supervisor.logging import Output, SelfPipe
from webapp.telemetry import multiprocess

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "gunicorn_config.py",
    *(path for name in ("contracts", "pusher", "webapp") for path in (ROOT / name).rglob("*.py")),
]

LIBRARIES = {
    "engineio",
    "flask",
    "flask_socketio",
    "gevent",
    "gunicorn",
    "prometheus_client",
    "redis",
    "simple_websocket",
    "socketio",
    "supervisor",
}

STANDARD = {"http", "socketserver"}
"""Modules of Python that the libraries' classes build on."""

OVERRIDES = {
    "webapp.stack.supervisor.logging.Handler": {"close", "emit", "flush"},
    "webapp.stack.supervisor.logging.Options": {"make_logger", "make_pipes"},
    "webapp.stack.supervisor.logging.Output": {"_init_normallog", "_log", "close", "handle_read_event"},
    "webapp.stack.supervisor.logging.OwnLog": {"log"},
    "webapp.stack.supervisor.logging.Program": {"dispatchers", "drain"},
    "webapp.stack.supervisor.logging.PromptSupervisor": {
        "handle_signal",
        "ordered_stop_groups_phase_1",
        "reap",
        "runforever",
    },
    "webapp.stack.supervisor.logging.SelfPipe": {"close", "handle_error", "handle_read", "writable"},
    "pusher.websocket.Handler": {"get_environ", "socket"},
    "webapp.api.app.App": {"ensure_sync", "session_interface"},
    "webapp.api.app._NoSessions": {"open_session"},
    "webapp.service.redis_pool._Buffer": {"_buffer", "_read_from_socket"},
    "webapp.service.redis_pool._Parser": {"_buffer", "_sock", "on_connect", "socket_read_size"},
    "webapp.telemetry.exporter.Pusher": {"collect"},
    "webapp.telemetry.exporter.Workers": {"collect"},
    "webapp.telemetry.exporter._Handler": {"do_GET", "log_message", "timeout"},
    "webapp.telemetry.metrics.BufferedHistogram": {"_buckets", "_sum", "_upper_bounds"},
    "webapp.servers.gunicorn.worker.Log": {"access_log_enabled"},
    "webapp.servers.gunicorn.worker.Worker": {
        *("init_process", "run", "server_class", "handle", "handle_request", "notify", "handle_exit", "init_signals"),
        *("alive", "cfg", "log", "ppid"),
    },
}
"""Our subclasses -> what of the library they replace or use."""

NEVER_CALLED = {
    "webapp.stack.supervisor.logging.Output": {"handle_write_event"},  # it is never writable
    "webapp.stack.supervisor.logging.OwnLog": {"getvalue"},  # of logs in memory
    "webapp.api.app._NoSessions": {"save_session"},  # Flask saves no null session
}
"""Methods that only raise."""


def parsed(source):
    """The syntax tree of a module, a class or a function, whatever its indentation."""
    text = inspect.getsource(source)
    return ast.parse(f"if True:\n{text}").body[0] if text[0].isspace() else ast.parse(text)


def used(source, *holders):
    """Names of the attributes that code uses on these expressions."""
    nodes = (node for node in ast.walk(parsed(source)) if isinstance(node, ast.Attribute))
    found = {node.attr for node in nodes if ast.unparse(node.value) in holders}
    assert found, f"nothing in {source} is called {holders} any more"
    return found


LOOP = used(Supervisor.runforever, "dispatcher", "combined_map[fd]")
"""supervisord's, over all that it reads from."""


def test_supervisord_finds_all_that_it_calls_on_what_wakes_it():
    assert "handle_error" in LOOP
    assert {name for name in LOOP if not hasattr(SelfPipe, name)} == set()


def test_supervisord_finds_all_that_it_calls_on_a_programs_output():
    ends = [Subprocess.drain, Subprocess.removelogs, Subprocess.reopenlogs]
    called = LOOP.union(*(used(end, "dispatcher") for end in ends))
    assert {name for name in called if not hasattr(Output, name)} == set()


def test_gunicorn_finds_all_that_it_calls_on_a_connection_and_sends_nothing_past_us():
    called = used(wsgi, "sock", "self.sock") | used(AsyncWorker.handle_request, "sock") | used(util, "sock")
    left, right = socket.socketpair()
    with left, right:
        stand_in = HeadWithBody(left)
        assert {name for name in called if not hasattr(stand_in, name)} == set()
    sends = {name for name in called if name.startswith("send")}
    assert sends - vars(HeadWithBody).keys() == {"send"}, "only `100 Continue`, which goes before a head"


def test_simple_websocket_finds_all_that_it_calls_on_a_socket():
    left, right = socket.socketpair()
    with left, right:
        stand_in = WholeSends(left)
        called = used(ws.Base, "self.sock") | used(ws.Server.__init__, "sock")
        assert {name for name in called if not hasattr(stand_in, name)} == set()
        assert {name for name in called if name.startswith("send")} == {"send"}
        assert "environ.get('eventlet.input').get_socket()" in inspect.getsource(ws.Server.__init__)
        assert stand_in.get_socket() is stand_in


def test_prometheus_files_have_all_that_we_make_room_by():
    ours = used(multiprocess._make_room, "file")
    assert ours == {"_capacity", "_f", "_m", "_positions", "_used"} == ours & used(MmapedDict, "self")
    assert "self._used + len(value) > self._capacity" in inspect.getsource(MmapedDict._init_value)
    called = used(values.MultiProcessValue, "self._file", "f")
    assert {name for name in called if not hasattr(multiprocess.AllocatedFile, name)} == set()


def imports(tree):
    """Local name -> what it names, of what a file imports from the libraries."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
            for each in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, each.name):
                    module = importlib.import_module(f"{node.module}.{each.name}")
                    found[each.asname or each.name] = module
                else:
                    found[each.asname or each.name] = getattr(module, each.name)
    return found


def subclasses():
    """Ours, of classes of the libraries: name -> class."""
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = imports(tree).keys()
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split(".")[0] in known for base in node.bases):
                found[f"{module}.{node.name}"] = getattr(importlib.import_module(module), node.name)
    return found


FOUND = subclasses()


def test_every_subclass_of_a_librarys_class_is_known_here():
    assert FOUND.keys() == OVERRIDES.keys()


@pytest.mark.parametrize("name", OVERRIDES)
def test_what_a_subclass_replaces_is_still_the_librarys_and_called_as_before(name):
    for each in OVERRIDES[name]:
        bases = [base for base in FOUND[name].__mro__[1:] if base.__module__.split(".")[0] in LIBRARIES | STANDARD]
        replaced = next((vars(base)[each] for base in bases if each in vars(base)), None)
        ours = vars(FOUND[name]).get(each)
        if not any(each in vars(base) for base in bases):
            assert any(f"self.{each}" in inspect.getsource(base) for base in bases), f"{each} is nowhere"
        elif isinstance(replaced, FunctionType) and ours is not None:
            parameters = inspect.signature(replaced).parameters.values()
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            inspect.signature(ours).bind(*positional)


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_subclass_leaves_nothing_abstract(name):
    left = {
        each
        for each, method in inspect.getmembers(FOUND[name], inspect.isfunction)
        if [ast.unparse(step) for step in _steps(method)]
        in (["raise NotImplementedError"], ["raise NotImplementedError()"])
    }
    assert left == NEVER_CALLED.get(name, set())


def _steps(method):
    body = parsed(method).body[0].body
    return body[1:] if isinstance(body[0], ast.Expr) else body


def test_what_is_put_into_a_librarys_class_or_module_replaces_something_there():
    replaced = 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = imports(tree)
        targets = (target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets)
        for target in targets:
            root, *names = ast.unparse(target).split(".")
            place = known.get(root)
            if isinstance(target, ast.Attribute) and (inspect.isclass(place) or inspect.ismodule(place)):
                for name in names:
                    assert hasattr(place, name), f"{path}: {ast.unparse(target)}"
                    place = getattr(place, name)
                replaced += 1
    assert replaced >= 6
