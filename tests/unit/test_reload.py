import errno

import pytest

from webapp.config.settings import Settings
from webapp.stack import serve, tls
from webapp.stack.supervisor.client import SupervisorError


class Programs:
    """Notes the signals that it is asked to send; one program is not running."""

    def __init__(self):
        self.sent = []

    def signal(self, program, name):
        if program == "pusher":
            raise SupervisorError("NOT_RUNNING: pusher")
        self.sent.append((program, name))


@pytest.fixture
def programs(monkeypatch):
    made = Programs()
    monkeypatch.setattr(serve, "Programs", lambda _run_dir: made)
    return made


def test_every_program_that_reads_keys_reloads_though_another_is_down_and_nginx_cuts_no_connection(programs, tmp_path):
    serve.reload(Settings(state_dir=tmp_path, tls="self-signed"))
    assert programs.sent == [("webapp-blue", "HUP"), ("webapp-green", "HUP")]
    assert (tmp_path / "run" / "tls" / "now" / "cert.pem").read_bytes() == (tmp_path / "tls" / "cert.pem").read_bytes()


def test_a_certificate_that_is_no_good_is_told_and_the_keys_are_read_all_the_same(programs, tmp_path, caplog):
    serve.reload(Settings(state_dir=tmp_path, tls_cert="/nowhere/cert.pem", tls_key="/nowhere/key.pem"))
    assert "nginx keeps the certificate that it has" in caplog.text
    assert ("webapp-blue", "HUP") in programs.sent


def test_a_certificate_that_can_t_be_made_anew_ends_nothing_and_the_keys_are_read(
    programs, tmp_path, caplog, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tls, "make_self_signed", full)
    serve.reload(Settings(state_dir=tmp_path, tls="self-signed"))
    assert "No space left on device; nginx keeps the certificate that it has" in caplog.text
    assert ("webapp-blue", "HUP") in programs.sent
