"""The recipe of docs/operations.md with certbot itself, as root, and Pebble, the test server of Let's Encrypt.

The stack runs as another user. The first certificate comes while it shows one of its own; renewals come under load.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from cryptography import x509
from ordinary_user import AS_NOBODY, NOBODY, PATHS, their_python
from running import PATIENCE_S, Stack, free_port, wait_for

from webapp.config.paths import ROOT

TOOLS = ("certbot", "pebble", "pebble-challtestsrv", "curl", "openssl")

MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

NAME = "rerank.test"

RENEWALS = 5

AT_ONCE = 50
"""Requests on one HTTP/2 connection; nginx closes each connection after 1,000."""

BODY = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()


class Place(Stack):
    """The service as docs/operations.md installs it, below another folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state")
        self.folder, self.plain_port = folder, free_port()
        self.file, self.webroot, self.etc = folder / "reranking.yaml", folder / "webroot", folder / "letsencrypt"
        self.webroot.mkdir(mode=0o755)
        self.state_dir.mkdir()
        os.chown(self.state_dir, NOBODY.pw_uid, NOBODY.pw_gid)
        self.hook = folder / "opt" / "deploy" / "certbot" / "deploy-hook"
        self.hook.parent.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "certbot" / "deploy-hook", self.hook)
        self.program = folder / "opt" / ".venv" / "bin" / "reranking"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(f'#!/bin/sh\nPYTHONPATH={PATHS} exec {their_python()} -m webapp "$@"\n')
        self.program.chmod(0o755)

    def configure(self, **settings):
        common = {"state_dir": str(self.state_dir), "port": self.port, "plain_port": self.plain_port, "engine": "stub"}
        settings = {**common, "acme_webroot": str(self.webroot), **settings}
        self.file.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))

    def begin(self, output=None):
        self._output = output or self.folder / "serve.out"
        with self._output.open("w") as said:
            environment = {"PATH": os.environ["PATH"], "RERANK_CONFIG": str(self.file)}
            command = [self.program, "serve"]
            self.process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, **AS_NOBODY)
        return self.process

    def serial(self):
        """Return the serial number of the certificate that a new connection is shown."""
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port)) as bare, trust.wrap_socket(bare) as wrapped:
            return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True)).serial_number


class Authority:
    """Pebble, for which every name is this machine, and certbot, which trusts it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self.place = folder, place
        self.port, self.management = free_port(), free_port()
        self.cert, key = folder / "cert.pem", folder / "key.pem"
        pair = ["-keyout", key, "-out", self.cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *pair], check=True, capture_output=True
        )
        self.dns = free_port()
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.cert),
            "privateKey": str(key),
            "httpPort": place.plain_port,
            "tlsPort": place.port,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))

    def __enter__(self):
        off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
        listen = ["-dns01", f"127.0.0.1:{self.dns}", "-management", f"127.0.0.1:{free_port()}"]
        dns = ["pebble-challtestsrv", *off, *listen]
        pebble = ["pebble", "-config", self.folder / "pebble.json", "-dnsserver", f"127.0.0.1:{self.dns}"]
        with (self.folder / "said").open("w") as said:
            self._programs = [
                subprocess.Popen(command, env={**os.environ, "PEBBLE_VA_NOSLEEP": "1"}, stdout=said, stderr=said)
                for command in (dns, pebble)
            ]
        wait_for(self._listens, "pebble listens")
        return self

    def __exit__(self, *_):
        for program in self._programs:
            program.kill()
            program.wait(PATIENCE_S)

    def _listens(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.management), 1):
            return True
        return False

    def certbot(self, *arguments):
        work, logs = self.folder / "work", self.folder / "logs"
        folders = ["--config-dir", self.place.etc, "--work-dir", work, "--logs-dir", logs]
        server = ["--server", f"https://localhost:{self.port}/dir", "--non-interactive"]
        done = subprocess.run(
            ["certbot", *arguments, *folders, *server],
            env={"PATH": os.environ["PATH"], "REQUESTS_CA_BUNDLE": str(self.cert)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert "Hook 'deploy-hook' ran with output:\n the stack reads" in done.stdout, done.stdout

    def root(self) -> Path:
        """Return a file with the certificate that signs all others."""
        trust = ssl.create_default_context(cafile=self.cert)
        connection = http.client.HTTPSConnection("localhost", self.management, context=trust)
        connection.request("GET", "/roots/0")
        path = self.folder / "root.pem"
        path.write_bytes(connection.getresponse().read())
        connection.close()
        return path


class Callers:
    """Clients that rerank without a pause, two by HTTP/1.1 and one by HTTP/2. None repeats a request."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place, self.root = place, root
        self.answered, self.failed = Counter(), []
        self._is_over = threading.Event()
        loops = (self._http_1, self._http_1, self._http_2)
        self._threads = [threading.Thread(target=loop, args=(number,)) for number, loop in enumerate(loops)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def wait(self, each):
        """Wait until every client has so many more answers."""
        before = self.answered.copy()
        numbers = range(len(self._threads))
        wait_for(lambda: all(self.answered[n] >= before[n] + each for n in numbers) or self.failed, "answers")

    def _http_1(self, number):
        trust = ssl.create_default_context(cafile=self.root)
        trust.check_hostname = False  # we call an address
        connection = http.client.HTTPSConnection("127.0.0.1", self.place.port, context=trust, timeout=PATIENCE_S)
        while not self._is_over.is_set():
            try:
                connection.request("POST", "/rerank", BODY)
                reply = connection.getresponse()
                reply.read()
                self._note(number, reply.status == http.HTTPStatus.OK, reply.status)
            except (OSError, http.client.HTTPException) as error:
                self._note(number, False, repr(error))
                connection.close()
        connection.close()

    def _http_2(self, number):
        """By curl: of each request its status, the version of HTTP, and how many connections were made for it."""
        urls = f"https://{NAME}:{self.place.port}/rerank?[1-{AT_ONCE}]"
        command = ["curl", "--silent", "--noproxy", "*", "--cacert", self.root, "--data", BODY.decode()]
        command += ["--resolve", f"{NAME}:{self.place.port}:127.0.0.1", "--output", "/dev/null"]
        command += ["--write-out", "%{stderr}%{http_code} %{http_version} %{num_connects}\n", urls]
        while not self._is_over.is_set():
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
            for wanted, line in zip(["200 2 1", *["200 2 0"] * (AT_ONCE - 1)], lines, strict=False):
                self._note(number, line == wanted, line)
            if len(lines) != AT_ONCE:
                self._note(number, False, f"{len(lines)} replies")

    def _note(self, number, good, seen):
        self.answered[number] += good
        if not good:
            self.failed.append((number, seen))


@pytest.fixture
def folder():
    """A folder that others can look into; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="reranking-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_certbot_gets_a_certificate_by_the_webroot_and_renews_it_under_load(folder, tmp_path):
    place = Place(folder)
    with Authority(tmp_path, place) as authority:
        place.configure(tls="self-signed")
        with place:
            terms = ["--agree-tos", "--register-unsafely-without-email"]
            hook = ["--deploy-hook", f"{place.hook} nobody {place.file}"]
            authority.certbot("certonly", "--webroot", "-w", place.webroot, "-d", NAME, *terms, *hook)
        live = place.etc / "live" / NAME
        place.configure(tls_cert=str(live / "fullchain.pem"), tls_key=str(live / "privkey.pem"))
        with place, Callers(place, authority.root()) as callers:
            shown = [place.serial()]
            for _ in range(RENEWALS):
                callers.wait(AT_ONCE)
                authority.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
                wait_for(lambda: place.serial() != shown[-1], "the new certificate is shown")
                shown.append(place.serial())
            callers.wait(AT_ONCE)
    asked = sum(callers.answered.values()) + len(callers.failed)
    print(f"renewals: {len(callers.failed)} of {asked} failed")  # noqa: T201 - its point
    assert callers.failed == []
    assert len(set(shown)) == RENEWALS + 1
    assert {(place.etc / name).stat().st_mode & 0o777 for name in ("live", "archive")} == {0o710}
    assert (live / "privkey.pem").stat().st_mode & 0o777 == 0o640
