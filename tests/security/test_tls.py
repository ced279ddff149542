"""What a TLS client gets, by `openssl s_client` where a modern library would refuse to try."""

import http.client
import os
import pwd
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import requests
from cryptography import x509
from nginx_kit import PAGE, Door
from running import PATIENCE_S, free_port

from webapp.config.paths import ROOT
from webapp.stack.tls import Certificate, make_self_signed, publish_certificate, served_certificate

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


CHALLENGES = "/.well-known/acme-challenge"

ANSWER = f"{CHALLENGES}/Zm9v-_1"
"""The path of an answer to a certificate authority; its name is a token."""


@pytest.fixture(scope="module")
def webroot(tmp_path_factory):
    """A folder as certbot fills it, and things that must not get out by it."""
    root = tmp_path_factory.mktemp("with space") / "web root"
    (root / CHALLENGES[1:] / "folder").mkdir(parents=True)
    (root / ANSWER[1:]).write_text("the answer")
    (root / CHALLENGES[1:] / "a.html").write_text("no token")
    (root / CHALLENGES[1:] / "link").symlink_to("/etc/passwd")
    (root / "secret").write_text("not below")
    return root


@pytest.fixture(scope="module", params=["plain port", "plain service", "https"])
def acme_url(request, webroot, tmp_path_factory):
    """Where nginx serves the folder: at the port that redirects, in a service without TLS, and in one with it."""
    if request.param == "plain service":
        options = {}
    else:
        options = {"tls": "self-signed", "plain_port": free_port(), "hsts_s": 60}
    with Door(tmp_path_factory.mktemp("state"), acme_webroot=str(webroot), **options) as door:
        port = options.get("plain_port", door.port) if request.param != "https" else door.port
        yield f"http{'s' * (request.param == 'https')}://127.0.0.1:{port}"


def bring(method, url):
    session = requests.Session()
    prepared = session.prepare_request(requests.Request(method, url))
    prepared.url = url  # requests would resolve dots
    return session.send(prepared, allow_redirects=False, verify=False, timeout=PATIENCE_S)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_answer_to_a_certificate_authority_is_served_as_text_to_anybody(acme_url):
    reply = bring("GET", acme_url + ANSWER)
    assert (reply.status_code, reply.text, reply.headers["Content-Type"]) == (200, "the answer", "text/plain")
    assert ("Strict-Transport-Security" in reply.headers) == acme_url.startswith("https")
    assert bring("HEAD", acme_url + ANSWER).headers["Content-Length"] == "10"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", ANSWER, 405),
        ("PUT", ANSWER, 405),
        *(
            ("GET", f"{CHALLENGES}/{name}", 404)
            for name in ("", "none", "folder", "folder/", "a.html", "link", "a" * 300, "Zm9v-_1%0A")
        ),
    ],
)
def test_nothing_else_comes_out_of_the_folder_and_refusals_are_json(acme_url, method, path, status):
    reply = bring(method, acme_url + path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (
        status,
        {404: "not_found", 405: "method_not_allowed"}[status],
    )
    assert ("Strict-Transport-Security" in reply.headers) == acme_url.startswith("https")


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("path", ["/secret", f"{CHALLENGES}/../../secret", f"{CHALLENGES}/%2e%2e/%2e%2e/secret"])
def test_of_the_folder_only_the_answers_are_served(acme_url, path):
    assert "not below" not in bring("GET", acme_url + path).text


class Renewed:
    """nginx with a certificate whose files change, as when it is renewed."""

    def __init__(self, folder):
        self.files = Certificate(folder / "live" / "fullchain.pem", folder / "live" / "privkey.pem")
        make_self_signed(self.files, "127.0.0.1")
        self.door = Door(folder / "state", tls_cert=str(self.files.cert), tls_key=str(self.files.key))

    def renew(self):
        make_self_signed(self.files, "127.0.0.1")
        publish_certificate(self.door.settings)

    def serial(self):
        """Return the serial number in the file."""
        return x509.load_pem_x509_certificate(self.files.cert.read_bytes()).serial_number

    def shown(self):
        """Return the serial number that a new connection is shown."""
        connection = self.connect()
        shown = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True)).serial_number
        connection.close()
        return shown

    def connect(self):
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.door.port, context=trust, timeout=PATIENCE_S)
        connection.connect()
        return connection


@pytest.fixture
def renewed(tmp_path):
    made = Renewed(tmp_path)
    with made.door:
        yield made


def test_a_renewed_certificate_is_shown_at_once_and_no_kept_connection_is_cut(renewed):
    kept = renewed.connect()
    sock, before = kept.sock, renewed.shown()
    for _ in range(2):
        kept.request("GET", PAGE)
        assert kept.getresponse().read()
        renewed.renew()
        assert renewed.shown() == renewed.serial() != before
    kept.request("GET", PAGE)
    assert kept.getresponse().read()
    assert kept.sock is sock
    kept.close()


def test_no_handshake_gets_a_certificate_with_another_s_key_while_the_link_is_renamed(renewed):
    """One file is read after the other; here the link changes many times between the two."""
    link = served_certificate(renewed.door.settings)
    before = link.readlink()
    renewed.renew()
    is_over = threading.Event()

    def rename_again_and_again():
        while not is_over.is_set():
            for target in (before, after):
                aside.symlink_to(target)
                aside.replace(link)

    after, aside = link.readlink(), link.with_name("aside")
    renaming = threading.Thread(target=rename_again_and_again)
    renaming.start()
    try:
        shown = {renewed.shown() for _ in range(100)}
    finally:
        is_over.set()
        renaming.join(PATIENCE_S)
    assert len(shown) == 2


HOOK = ROOT / "deploy" / "certbot" / "deploy-hook"


@pytest.fixture
def open_folder():
    """A folder that others can look into; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="reranking-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="certbot runs it as root")
def test_the_deploy_hook_opens_the_key_to_the_service_s_group_alone_and_reloads_as_its_user(open_folder):
    """By certbot's own variables, on the folders and modes that certbot makes; tests/platforms has certbot itself."""
    live, archive = (open_folder / "etc let" / name / "rerank.test" for name in ("live", "archive"))
    for folder in (live, archive):
        folder.parent.mkdir(mode=0o700, parents=True)
        folder.mkdir(mode=0o755)
    (archive / "privkey1.pem").touch(mode=0o600)
    (live / "privkey.pem").symlink_to("../../archive/rerank.test/privkey1.pem")
    program = open_folder / "opt" / ".venv" / "bin" / "reranking"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$(id -un) $RERANK_CONFIG $*"\n')
    program.chmod(0o755)
    hook = open_folder / "opt" / "deploy" / "certbot" / "deploy-hook"
    hook.parent.mkdir(parents=True)
    shutil.copy(HOOK, hook)
    linked = open_folder / "hook"  # as in certbot's folder of hooks
    linked.symlink_to(hook)
    done = subprocess.run(
        [linked, "nobody", "/etc/reranking/a.yaml"],
        env={"PATH": os.environ["PATH"], "RENEWED_LINEAGE": str(live), "RENEWED_DOMAINS": "rerank.test"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "nobody /etc/reranking/a.yaml reload\n"), done.stderr
    modes = [path.stat().st_mode & 0o777 for path in (live.parent, archive.parent, live / "privkey.pem")]
    assert modes == [0o710, 0o710, 0o640]
    groups = {path.stat().st_gid for path in (live.parent, archive.parent, live / "privkey.pem")}
    assert groups == {pwd.getpwnam("nobody").pw_gid}
