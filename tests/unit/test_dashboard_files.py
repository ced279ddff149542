"""The dashboard's files as nginx sends them, with no program behind it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from running import free_port, wait_for

from webapp.config.settings import Settings
from webapp.stack.nginx.config import inspect_nginx, nginx_conf

DASHBOARD = Path(__file__).resolve().parents[2] / "pusher" / "dashboard"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """The address of an nginx before programs that don't run, and its log."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("door"), port=free_port(), host="127.0.0.1")
    (settings.run_dir / "nginx").mkdir(parents=True)
    (settings.run_dir / "nginx.conf").write_text(nginx_conf(settings, inspect_nginx(NGINX)))
    url = f"http://127.0.0.1:{settings.port}"
    log = settings.state_dir / "log"
    with log.open("w") as said:
        command = [NGINX, "-e", "stderr", "-c", str(settings.run_dir / "nginx.conf")]
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        wait_for(lambda: _answers(url) or process.poll() is not None, "nginx answers")
        assert process.poll() is None, log.read_text()
        yield url, log
    finally:
        process.terminate()
        process.wait(60)


def _answers(url):
    try:
        return requests.get(f"{url}/dashboard/icon.svg", timeout=60).ok
    except requests.ConnectionError:
        return False


def get(door, path, **options):
    return requests.get(f"{door[0]}{path}", timeout=60, **options)


def test_the_page_opens_without_the_pusher_and_runs_only_our_own_files(door):
    reply = get(door, "/dashboard/")
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = reply.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in reply.text
    assert "<script>" not in reply.text
    assert get(door, "/socket.io/?EIO=4&transport=polling").status_code == 503, "the pusher is not there"


def test_the_address_without_a_slash_leads_to_the_page_behind_any_prefix(door):
    reply = get(door, "/dashboard?a=b", allow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (308, "dashboard/?a=b")


def test_every_file_of_the_page_has_its_type_and_is_asked_for_again(door):
    files = [file for file in DASHBOARD.iterdir() if file.suffix in TYPES]
    assert len(files) > 10
    for file in files:
        reply = get(door, f"/dashboard/{file.name}")
        assert reply.content == file.read_bytes()
        assert reply.headers["Content-Type"].startswith(TYPES[file.suffix])
        assert reply.headers["Cache-Control"] == "no-cache"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        again = get(door, f"/dashboard/{file.name}", headers={"If-None-Match": reply.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    "name", ["package.json", "package-lock.json", ".npmrc", "vendor/x.js", "none.js", "..%2fmain.py"]
)
def test_nothing_else_is_served_and_no_error_is_logged(door, name):
    reply = get(door, f"/dashboard/{name}")
    assert reply.status_code in {404, 503}, name
    assert reply.json()["request_id"]
    assert "open()" not in door[1].read_text(), "a file that is missing is no error"


@pytest.mark.parametrize("name", ["socket.io.js", "uplot.js", "uplot.css"])
def test_packages_are_served_by_our_names_or_missing_without_an_error(door, name):
    reply = get(door, f"/dashboard/vendor/{name}")
    if (DASHBOARD / "node_modules" / ".stamp").exists():
        assert reply.headers["Content-Type"] == TYPES[Path(name).suffix]
    else:
        assert reply.status_code == 404
