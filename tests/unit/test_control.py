"""A restart has succeeded when what was restarted is reached, and not before."""

import http.server
import socket
import threading
from functools import partial

import pytest

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack import control
from webapp.stack.control import _stays_up, _wait_until_reached, _wait_until_up
from webapp.stack.supervisor.client import Program


class Nginx(http.server.ThreadingHTTPServer):
    """It answers each request with one status."""

    def __init__(self, status):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "REACHED_S", 0.0)
    settings = Settings(state_dir=tmp_path, port=1)
    settings.run_dir.mkdir()
    return settings


@pytest.mark.parametrize(
    ("program", "status", "is_reached"),
    [("webapp-blue", 200, True), ("webapp-blue", 503, False), ("nginx", 200, True), ("nginx", 503, True)],
)
def test_the_webapp_is_reached_when_nginx_has_its_answer_and_nginx_when_it_answers(
    settings, program, status, is_reached, monkeypatch
):
    monkeypatch.setattr(control, "REACHED_S", 5.0 if is_reached else 0.05)
    with Nginx(status) as nginx:
        answering = threading.Thread(target=nginx.serve_forever)
        answering.start()
        reached = settings.model_copy(update={"port": nginx.server_port})
        if is_reached:
            _wait_until_reached(reached, program)
        else:
            with pytest.raises(SetupError, match="don't reach it; see reranking doctor"):
                _wait_until_reached(reached, program)
        nginx.shutdown()
        answering.join()


@pytest.mark.parametrize("program", ["webapp-blue", "nginx", "pusher", "metrics"])
def test_a_program_that_runs_without_its_socket_is_not_reached(settings, program):
    with pytest.raises(SetupError, match=f"{program} runs, but requests to"):
        _wait_until_reached(settings, program)


def test_a_program_that_listens_and_one_that_has_no_socket_are_reached(settings):
    with socket.socket(socket.AF_UNIX) as pusher:
        pusher.bind(str(settings.pusher_socket))
        pusher.listen()
        _wait_until_reached(settings, "pusher")
    _wait_until_reached(settings, "compare")


class NeverUp:
    """Programs of which none stays up, and of which supervisor gives up none."""

    def __init__(self):
        self._looks = 0

    def of(self, name):
        self._looks += 1
        assert self._looks < 10, "it is waited for without end"
        return Program(name, ("STARTING", "BACKOFF")[self._looks % 2], 0, 0)


def test_a_program_that_never_stays_up_is_waited_for_no_longer_than_the_webapp(monkeypatch):
    monkeypatch.setattr(control, "READY_S", 0.0)
    monkeypatch.setattr(control, "POLL_S", 0.0)
    programs = NeverUp()
    with pytest.raises(SetupError, match=r"pusher is not up after .*: reranking logs pusher"):
        _wait_until_up("pusher", programs, partial(_stays_up, "pusher", programs))
