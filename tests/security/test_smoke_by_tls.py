"""scripts/smoke, and scripts/deploy that runs it, against a service with a certificate that nobody trusts yet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import PATIENCE_S

from webapp.config.paths import ROOT

pytestmark = pytest.mark.slow


def smoke(*arguments, key=""):
    command = [sys.executable, str(ROOT / "scripts" / "smoke"), *map(str, arguments)]
    environment = {**os.environ, "RERANK_KEY": key}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=5 * PATIENCE_S)


def test_every_endpoint_is_tested_by_a_certificate_that_is_given(secured):
    seen = smoke("--ca", secured.cert, secured.url, key=secured.keys["ops"])
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "all is well" in seen.stdout
    assert "by WebSocket" in seen.stdout


def test_a_certificate_that_is_not_trusted_names_the_option_that_trusts_it(secured):
    seen = smoke(secured.url)
    assert seen.returncode == 1
    assert "the certificate is not trusted" in seen.stdout
    assert "--ca FILE" in seen.stdout


def test_a_certificate_of_another_host_names_the_option_that_gives_its_name(secured):
    seen = smoke("--ca", secured.cert, "--name", "elsewhere.example", secured.url)
    assert seen.returncode == 1
    assert "--name NAME" in seen.stdout


@pytest.mark.parametrize("wrong", [[], ["127.0.0.1:8080"], ["--ca", "/none", "https://127.0.0.1:1"]])
def test_a_wrong_command_line_is_told_in_a_line(wrong):
    seen = smoke(*wrong)
    assert seen.returncode == 2
    assert "smoke: error: " in seen.stderr


@pytest.mark.parametrize("way", ["--self-signed", "--ca"])
def test_a_deploy_tests_a_service_with_tls_by_the_container_s_certificate_or_a_given_one(secured, tmp_path, way):
    docker = tmp_path / "docker"
    address = secured.url.removeprefix("https://")
    inside = f'shift 4; RERANK_STATE_DIR={secured.stack.state_dir} exec "$@"'
    docker.write_text(f'#!/bin/sh\ncase "$2" in port) echo {address} ;; exec) {inside} ;; esac\n')
    docker.chmod(0o755)
    (tmp_path / "ca.pem").write_bytes(Path(secured.cert).read_bytes())
    seen = subprocess.run(
        [ROOT / "scripts" / "deploy", way, *(["ca.pem"] if way == "--ca" else [])],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RERANK_KEY": secured.keys["ops"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=5 * PATIENCE_S,
    )
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert f"all is well at {secured.url}" in seen.stdout
