"""What a TLS client gets, by `openssl s_client` where a modern library would refuse to try."""

import shutil
import subprocess
import sys

import pytest
import requests
from running import PATIENCE_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program"),
]


def s_client(secured, *options):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{secured.stack.port}", "-CAfile", str(secured.cert)]
    outcome = subprocess.run([*command, *options], input=b"", capture_output=True, check=False, timeout=PATIENCE_S)
    return (outcome.stdout + outcome.stderr).decode(errors="replace")  # HTTP/2 is shown as bytes


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_tls_below_1_2_is_refused_by_the_server(secured, version):
    said = s_client(secured, version, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert protocol version" in said  # the server's alert: the client was willing
    assert "Cipher is (NONE)" in said


@pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_tls_1_2_and_1_3_are_spoken(secured, version, name):
    said = s_client(secured, version)
    assert f"New, {name}, Cipher is" in said
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "NULL-SHA256", "ADH-AES128-SHA"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(secured, cipher):
    assert "Cipher is (NONE)" in s_client(secured, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")


def test_http_2_is_offered(secured):
    assert "ALPN protocol: h2" in s_client(secured, "-alpn", "h2,http/1.1")


def test_the_private_key_is_the_user_s_alone(secured):
    folder = secured.cert.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/rerank?a=%20b"), ("GET", "//evil.example/")])
def test_the_plain_port_sends_everything_to_https(secured, method, path):
    plain = f"http://127.0.0.1:{secured.plain_port}"
    reply = requests.request(method, plain + path, allow_redirects=False, timeout=PATIENCE_S)
    assert (reply.status_code, reply.headers["Location"]) == (308, secured.url + path)
    assert "Strict-Transport-Security" not in reply.headers


def test_plain_text_at_the_tls_port_is_refused_in_json(secured):
    reply = requests.get(secured.url.replace("https", "http"), timeout=PATIENCE_S)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


def test_replies_tell_browsers_to_use_only_tls(secured):
    assert secured.ask("GET", "/health").headers["Strict-Transport-Security"] == "max-age=3600"


def test_our_own_command_asks_over_tls_and_needs_no_key(secured):
    outcome = subprocess.run(
        [sys.executable, "-m", "webapp", "rerank", "bees"],
        env=secured.stack._environment,
        input="a bee\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, outcome.stdout.split()[-2:]) == (0, ["a", "bee"]), outcome.stderr
