import datetime as dt
import errno
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack.nginx.config import Nginx, balancer_conf, nginx_conf
from webapp.stack.tls import (
    VALID_DAYS,
    certificate,
    is_published,
    prepare_certificate,
    publish_certificate,
    served_certificate,
    trust_own,
    webroot_problem,
)


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


def test_half_a_renewal_is_refused_and_nginx_goes_on_with_the_pair_that_it_has(pem_files, trial, tmp_path):
    settings = given(pem_files["cert"], pem_files["key"], tmp_path)
    publish_certificate(settings)
    shown = {name: (served_certificate(settings) / name).read_bytes() for name in ("cert.pem", "key.pem")}
    certificate(trial).key.write_bytes(pem_files["other key"].read_bytes())  # certbot replaces file by file
    with pytest.raises(SetupError, match="KEY_VALUES_MISMATCH"):
        publish_certificate(settings)
    assert {name: (served_certificate(settings) / name).read_bytes() for name in shown} == shown


def test_what_nginx_shows_is_our_user_s_alone_and_of_older_pairs_one_is_kept(trial):
    seen = []
    for _ in range(4):
        certificate(trial).cert.unlink(missing_ok=True)
        publish_certificate(trial)
        seen.append(served_certificate(trial).resolve())
    assert sorted(path for path in served_certificate(trial).parent.iterdir() if not path.is_symlink()) == sorted(
        seen[-2:]  # a handshake may be reading the one before
    )
    assert {path.stat().st_mode & 0o777 for path in seen[-1].glob("*.pem")} == {0o600}
    publish_certificate(trial)  # nothing is new
    assert served_certificate(trial).resolve() == seen[-1]
    assert seen[-2].exists()


def test_our_own_calls_trust_what_nginx_shows_until_the_stack_has_read_a_renewed_file(trial):
    publish_certificate(trial)
    shown = trust_own(trial).get_ca_certs(binary_form=True)
    certificate(trial).cert.unlink()
    prepare_certificate(trial)
    assert trust_own(trial).get_ca_certs(binary_form=True) == shown
    publish_certificate(trial)
    assert trust_own(trial).get_ca_certs(binary_form=True) != shown


def test_a_state_directory_behind_a_link_changes_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    settings = Settings(state_dir=tmp_path / "link", tls="self-signed")
    publish_certificate(settings)
    first = served_certificate(settings).resolve()
    before = (first / "cert.pem").stat()
    publish_certificate(settings)
    assert (first / "cert.pem").stat() == before
    certificate(settings).cert.unlink()
    publish_certificate(settings)
    assert first.exists()


def test_without_tls_nothing_is_to_be_shown(tmp_path):
    settings = Settings(state_dir=tmp_path)
    publish_certificate(settings)
    assert is_published(settings)
    assert not served_certificate(settings).parent.exists()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("nothing", "mkdir it"),
        ("a file", "mkdir it"),
        ("a folder", ""),
        ("a closed folder", "chmod a"),
        ("a closed folder below", "acme-challenge; chmod a"),
    ],
)
def test_a_webroot_that_nginx_can_t_serve_is_told_with_its_remedy(tmp_path, monkeypatch, there, said):
    root, file = tmp_path / "web", tmp_path / "a file"
    file.touch()
    (root / ".well-known" / "acme-challenge").mkdir(parents=True)
    settings = Settings(acme_webroot=str({"nothing": tmp_path / "none", "a file": file}.get(there, root)))
    below = root / ".well-known" / "acme-challenge"
    closed = {"a closed folder": f"{root}/.", "a closed folder below": below}.get(there)
    real = os.access  # root may look into every folder
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and real(path, mode))
    problem = webroot_problem(settings)
    assert said in problem
    assert bool(problem) == bool(said)


def test_a_balancer_serves_the_answers_to_a_certificate_authority_too(tmp_path):
    settings = Settings(state_dir=tmp_path, stacks="http://127.0.0.1:1", acme_webroot=str(tmp_path))
    assert f'root "{tmp_path}";' in balancer_conf(settings)


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
