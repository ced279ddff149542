"""A clone in a folder with odd characters, behind somebody's proxy: all of it works, and no log speaks of an error."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import requests
from browsing import browser, needs_chromium, page
from packaged import smoke
from proxies import Proxy
from running import PATIENCE_S, Stack, free_port, wait_for

from webapp.stack.preflight import find_nginx

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

FOLDER = "My Data; {é'#}"
"""All that can be quoted. What can't is refused: tests/unit/test_settings.py."""

NO_CODE = shutil.ignore_patterns("__pycache__", "*.so")


class Clone(Stack):
    """A copy of the source tree with an environment and a state directory of its own, as scripts/serve has them."""

    def __init__(self, root: Path, **variables: str) -> None:
        for name in ("reranking_server", "webapp", "pusher", "contracts", "nginx", "supervisor"):
            shutil.copytree(ROOT / name, root / name, ignore=NO_CODE, symlinks=True)
        shutil.copy(ROOT / "gunicorn_config.py", root)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
        packages = next((root / ".venv" / "lib").iterdir()) / "site-packages"
        (packages / "clone.pth").write_text(f"{root}\n{ROOT / 'client'}\n{sysconfig.get_path('purelib')}\n")
        self.python = str(root / ".venv" / "bin" / "python")
        super().__init__(root / "var", **variables)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the clone, with what `serve` was started with."""
        return subprocess.run(
            [self.python, *arguments], env=self._environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def proxy():
    with Proxy() as running:
        yield running


@pytest.fixture(scope="module")
def clone(tmp_path_factory, proxy):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.variables.items():
            patch.setenv(name, value)
        stack = Clone(tmp_path_factory.mktemp("odd") / FOLDER, engine="stub")
    with stack:
        yield stack


@contextlib.contextmanager
def prefixed(stack, folder, *, says):
    """The address below which somebody's own nginx serves us."""
    port = free_port()
    told = "proxy_set_header X-Forwarded-Prefix /search/v1;" if says else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off;"
        f" {' '.join(f'{kind}_temp_path {folder}/{kind};' for kind in kinds)} server {{ listen 127.0.0.1:{port};"
        f" location /search/v1/ {{ {told} proxy_set_header Host $http_host; proxy_pass {stack.url}/; }} }} }}"
    )
    process = subprocess.Popen([find_nginx(), "-e", "stderr", "-c", folder / "nginx.conf"])
    try:
        wait_for(lambda: listens(port), "the other nginx listens")
        yield f"http://127.0.0.1:{port}/search/v1"
    finally:
        process.terminate()
        process.wait()


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def above_info(stack):
    logs = (stack.state_dir / "log").iterdir()
    lines = [(path.name, json.loads(line)) for path in logs for line in path.read_text().splitlines()]
    return [(name, line["level"], line["message"]) for name, line in lines if line["level"] not in {"debug", "info"}]


def test_500_good_requests_leave_no_line_above_info_in_any_log(clone):
    with requests.Session() as session:
        for number in range(500):
            assert session.post(f"{clone.url}/rerank", json={"query": str(number), "documents": ["a"]}).ok
        # More than nginx keeps in memory, both ways.
        large = {"query": "q", "documents": [f"{number} {'x' * 1000}" for number in range(3000)]}
        assert session.post(f"{clone.url}/rerank", json=large, timeout=PATIENCE_S).ok
        for path in ("/", "/health", "/docs", "/docs/", "/openapi.json", "/dashboard", "/metrics", "/progress"):
            assert session.get(f"{clone.url}{path}").ok, path
    assert above_info(clone) == []


def test_a_deploy_in_such_a_folder_compares_two_colors_by_nginx_own_log(clone):
    deployed = clone.run(
        "-m", "webapp", "deploy", "--set", "cache_mb=16", "--canary", "50", "--for", "1", "--watch", "1"
    )
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert clone.colors()["active"] == "green"
    assert "green" in clone.supervisorctl("status", "webapp-green")
    assert [line for line in above_info(clone) if line[0] == "nginx.log"] == []
    assert not (clone.state_dir / "run" / "comparing").exists()
    assert (clone.state_dir / "run" / "traffic.log").stat().st_size == 0


def test_serve_asks_itself_without_the_proxy_and_names_its_pages(clone, proxy):
    assert "Ready: " in clone.said
    assert f"Dashboard: {clone.url}/dashboard/" in clone.state_dir.joinpath("serve.out").read_text()
    assert proxy.asked == []


HEALTHCHECK = (ROOT / "Dockerfile").read_text().partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0]

COMMANDS = {
    "status": ("-m", "webapp", "status"),
    "rerank": ("-m", "webapp", "rerank", "bees", "{notes}"),
    "rerank by name": ("-m", "webapp", "rerank", "bees", "{notes}", "--url", "{localhost}"),
    "smoke": (str(ROOT / "scripts" / "smoke"), "{url}"),
    "health check": json.loads(HEALTHCHECK)[1:],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_call_to_this_machine_is_made_through_a_proxy(clone, proxy, tmp_path, name):
    (tmp_path / "notes.txt").write_text("bees\nmilk\n")
    places = {
        "{notes}": str(tmp_path / "notes.txt"),
        "{url}": clone.url,
        "{localhost}": clone.url.replace("127.0.0.1", "localhost"),
    }
    ended = clone.run(*(places.get(argument, argument) for argument in COMMANDS[name]))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert proxy.asked == []


def test_another_machine_is_asked_through_the_proxy_unless_no_proxy_lists_it(clone, tmp_path):
    (tmp_path / "notes.txt").write_text("bees\nmilk\n")
    with Proxy(clone.port) as remote, pytest.MonkeyPatch.context() as patch:
        for name, value in remote.variables.items():
            patch.setenv(name, value)
        seen = smoke("http://rerank.example")
        assert seen.returncode == 0, seen.stdout + seen.stderr
        assert "GET http://rerank.example/ready" in remote.asked
        assert "CONNECT rerank.example:80" in remote.asked, "a WebSocket goes through a tunnel"
        remote.asked.clear()
        ask = [sys.executable, "-m", "webapp", "rerank", "bees", tmp_path / "notes.txt", "--url"]
        assert subprocess.run([*ask, "http://rerank.example"], check=False).returncode == 0
        assert "POST http://rerank.example/rerank" in remote.asked
        remote.asked.clear()
        patch.setenv("no_proxy", "rerank.invalid")
        assert subprocess.run([*ask, "http://rerank.invalid", "--timeout-s", "1"], check=False).returncode == 1
        assert smoke("http://rerank.invalid").returncode == 1
        assert remote.asked == []


@needs_chromium
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_api_page_works_under_a_prefix_with_and_without_a_slash(clone, tmp_path, says, path):
    with prefixed(clone, tmp_path, says=says) as base, browser() as running, page(running) as opened:
        opened.goto(f"{base}{path}")
        opened.locator("#operations-about-get_version").click()
        opened.locator("#operations-about-get_version .execute").click()
        address = opened.locator("#operations-about-get_version .request-url pre").inner_text()
        assert address == f"{base}/version"
        assert opened.locator("#operations-about-get_version .live-responses-table .response-col_status").first


@needs_chromium
def test_a_browser_finds_its_way_from_the_first_page_under_a_prefix(clone, tmp_path):
    with prefixed(clone, tmp_path, says=False) as base, browser() as running, page(running) as opened:
        opened.goto(f"{base}/")
        links = opened.locator("a").evaluate_all("links => links.map(link => link.href)")
        assert {f"{base}/dashboard/", f"{base}/docs", f"{base}/metrics"} <= set(links)
        for link in links:
            assert requests.get(link, timeout=PATIENCE_S).ok, link
