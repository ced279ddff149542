import errno
from types import SimpleNamespace

import pytest

from webapp.config.settings import Settings
from webapp.stack import balance, tls
from webapp.stack.balance import detection_s
from webapp.stack.nginx.config import Nginx, balancer_conf, nginx_conf


def test_what_the_kernel_takes_to_notice_is_its_first_wait_and_all_its_probes(tmp_path):
    for name, value in {"time": 7200, "intvl": 75, "probes": 9}.items():
        (tmp_path / f"tcp_keepalive_{name}").write_text(f"{value}\n")
    assert detection_s(tmp_path) == 7875


def test_a_name_in_the_certificates_is_the_first_stack_s(tmp_path):
    secure = balancer_conf(
        Settings(state_dir=tmp_path, stacks="https://one.example:8443, https://[::1]:8443", stacks_ca="/ca.pem")
    )
    assert "proxy_ssl_name one.example;" in secure
    assert "server [::1]:8443 " in secure
    assert "proxy_pass https://stacks;" in secure
    assert "ssl" not in balancer_conf(Settings(state_dir=tmp_path, stacks="http://one.example:8080"))


def test_addresses_are_taken_from_balancers_alone(tmp_path):
    settings = Settings(state_dir=tmp_path, balancers="10.0.0.1, 10.1.0.0/16")
    told = nginx_conf(settings, Nginx(stream=None))
    assert [line.strip() for line in told.splitlines() if "set_real_ip_from" in line] == [
        "set_real_ip_from 10.0.0.1;",
        "set_real_ip_from 10.1.0.0/16;",
    ]
    assert "real_ip" not in nginx_conf(Settings(state_dir=tmp_path), Nginx(stream=None))


@pytest.fixture
def console():
    """One that keeps what is said."""
    said = []
    return SimpleNamespace(say=said.append, said=said)


def test_at_hup_on_a_full_disk_the_balancer_goes_on_as_it_was(tmp_path, monkeypatch, console):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tls, "make_self_signed", full)
    settings = Settings(state_dir=tmp_path, tls="self-signed", stacks="http://one.example:8080")
    balance._reload(lambda: settings, settings, "nginx", None, console)
    assert console.said == ["The settings stay as they were: [Errno 28] No space left on device"]


def test_a_kernel_that_does_not_say_when_it_notices_is_no_reason_to_end(tmp_path, console):
    balance._warn_of_slow_detection(tmp_path, console)
    assert console.said == []
    for name, value in {"time": 7200, "intvl": 75, "probes": 9}.items():
        (tmp_path / f"tcp_keepalive_{name}").write_text(f"{value}\n")
    balance._warn_of_slow_detection(tmp_path, console)
    assert "after 7,875 s" in console.said[0]
