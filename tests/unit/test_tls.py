import datetime as dt
import errno
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack.nginx.config import Nginx, nginx_conf
from webapp.stack.tls import VALID_DAYS, certificate, prepare_certificate, trust_own


@pytest.fixture
def trial(tmp_path):
    settings = Settings(state_dir=tmp_path, tls="self-signed", host="192.0.2.1")
    prepare_certificate(settings)
    return settings


def in_days(days, monkeypatch):
    monkeypatch.setattr("webapp.stack.tls._now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=days))


def given(cert, key, tmp_path):
    return Settings(state_dir=tmp_path, tls_cert=str(cert), tls_key=str(key))


def test_a_trial_certificate_names_the_hosts_it_is_for_and_is_kept(trial):
    files = certificate(trial)
    names = x509.load_pem_x509_certificate(files.cert.read_bytes()).extensions
    alternative = str(names.get_extension_for_class(x509.SubjectAlternativeName).value)
    assert all(name in alternative for name in ("localhost", "127.0.0.1", "::1", "192.0.2.1"))
    before = files.cert.read_bytes()
    prepare_certificate(trial)
    assert files.cert.read_bytes() == before


def test_the_trial_certificate_is_renewed_before_it_ends_and_for_another_host(trial, monkeypatch):
    before = certificate(trial).cert.read_bytes()
    moved = trial.model_copy(update={"host": "192.0.2.2"})
    prepare_certificate(moved)
    after = certificate(trial).cert.read_bytes()
    assert after != before
    in_days(VALID_DAYS - 29, monkeypatch)
    prepare_certificate(moved)
    assert certificate(trial).cert.read_bytes() != after


@pytest.mark.parametrize("fits", [0, 1])
def test_on_a_full_disk_the_certificate_that_is_there_stays_whole_with_its_key(trial, monkeypatch, fits):
    files = certificate(trial)
    before = files.cert.read_bytes(), files.key.read_bytes()
    written, write = [], Path.write_bytes

    def on_a_full_disk(path, content):
        if len(written) == fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", on_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare_certificate(trial.model_copy(update={"host": "192.0.2.2"}))
    assert (files.cert.read_bytes(), files.key.read_bytes()) == before
    monkeypatch.undo()
    prepare_certificate(trial.model_copy(update={"host": "192.0.2.2"}))
    assert files.cert.read_bytes() != before[0]
    assert {each.name: each.stat().st_mode & 0o777 for each in files.key.parent.iterdir()} == {
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }


@pytest.fixture
def pem_files(trial, tmp_path):
    """A certificate with its key, the key of another certificate, rubbish, and a file that does not exist."""
    other = Settings(state_dir=tmp_path / "other", tls="self-signed")
    prepare_certificate(other)
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    files = certificate(trial)
    return {
        "cert": files.cert,
        "key": files.key,
        "other key": certificate(other).key,
        "rubbish": rubbish,
        "missing": tmp_path / "none",
    }


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("cert", "missing", "No such file"),
        ("cert", "other key", "KEY_VALUES_MISMATCH"),
        ("rubbish", "key", "can't be used"),
        ("cert", "rubbish", "can't be used"),
    ],
)
def test_a_given_certificate_that_can_t_be_used_is_one_line_with_the_reason(pem_files, tmp_path, cert, key, reason):
    with pytest.raises(SetupError, match=reason) as caught:
        prepare_certificate(given(pem_files[cert], pem_files[key], tmp_path))
    assert "\n" not in str(caught.value)


def test_a_given_certificate_is_used_until_it_ends(trial, tmp_path, monkeypatch):
    files = certificate(trial)
    prepare_certificate(given(files.cert, files.key, tmp_path))
    in_days(VALID_DAYS + 1, monkeypatch)
    with pytest.raises(SetupError, match="it was valid until"):
        prepare_certificate(given(files.cert, files.key, tmp_path))


def test_our_own_calls_trust_that_certificate_and_no_other(trial, tmp_path):
    context = trust_own(trial)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
    assert trust_own(Settings(state_dir=tmp_path)) is None


@pytest.mark.parametrize(
    "variables",
    [
        {"TLS_CERT": "/a.pem"},
        {"TLS_KEY": "/a.pem"},
        {"TLS": "self-signed", "TLS_CERT": "/a.pem", "TLS_KEY": "/b.pem"},
        {"HSTS_S": "60"},
        {"PLAIN_PORT": "8081"},
        {"TLS": "self-signed", "PLAIN_PORT": "8080"},
        {"TLS": "letsencrypt"},
        {"CORS_ORIGINS": "*"},
        {"CORS_ORIGINS": "https://a.example/"},
        {"CORS_ORIGINS": 'https://a.example" evil'},
        {"CORS_ORIGINS": "https://a.example, app"},
    ],
)
def test_what_contradicts_itself_refuses_to_start_and_names_the_setting(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"RERANK_{name}", value)
    with pytest.raises(SetupError) as caught:
        load_settings()
    assert any(f"RERANK_{name}" in str(caught.value) for name in variables)


def test_http_2_is_asked_for_in_the_words_of_each_nginx(trial):
    old, new = (nginx_conf(trial, Nginx(version, stream=None)) for version in ((1, 22, 1), (1, 25, 1)))
    assert "listen 192.0.2.1:8080 ssl http2 backlog" in old
    assert "http2 on;" not in old
    assert "listen 192.0.2.1:8080 ssl backlog" in new
    assert "http2 on;" in new


def test_without_tls_and_origins_nginx_s_configuration_has_neither(tmp_path):
    conf = nginx_conf(Settings(state_dir=tmp_path))
    assert "ssl" not in conf
    assert "Access-Control" not in conf
    assert "$cors" not in conf
    assert "Strict-Transport" not in conf
