"""Our objects that stand for a library's have all that the library uses of them."""

import inspect
import socket

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.base_async import AsyncWorker
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from simple_websocket import ws
from supervisor.process import Subprocess
from supervisor.supervisord import Supervisor
from upstream.sources import ours, used

from webapp.telemetry import multiprocess

HeadWithBody, WholeSends, AllocatedFile = ours("HeadWithBody"), ours("WholeSends"), ours("AllocatedFile")
Output, SelfPipe = ours("Output"), ours("SelfPipe")

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
    assert {name for name in called if not hasattr(AllocatedFile, name)} == set()
