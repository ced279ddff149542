"""An upgrade in place from the last commit of the first layout, as docs/operations.md has it, under load."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import requests
from load_kit import OpenLoop
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "5013e68"
"""It has webapp.stack as a module, its own `logs` package, RERANK_COLOUR and `colour` in its files and events."""

CODE = ("reranking_server", "webapp", "pusher", "contracts", "nginx", "supervisor", "gunicorn_config.py")
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.so")


def archived(commit, folder):
    """Write that commit's tree there; whether this clone has it."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode == 0:
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return archive.returncode == 0


class Tree(Stack):
    """A clone with an environment of its own, whose code is replaced while it serves."""

    def __init__(self, root, **variables):
        self.root = root
        self.prefix = ("env", "-C", str(root))  # Python looks for a module in the current folder first
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
        packages = next((root / ".venv" / "lib").iterdir()) / "site-packages"
        (packages / "clone.pth").write_text(f"{root}\n{root / 'client'}\n{sysconfig.get_path('purelib')}\n")
        self.python = str(root / ".venv" / "bin" / "python")
        super().__init__(root / "var", **variables)

    def upgrade(self):
        """Do as `git pull` and scripts/install do."""
        for name in ("webapp", "pusher", "logs", "nginx", "supervisor"):
            shutil.rmtree(self.root / name)
        for name in CODE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, ignore=NOT_CODE, symlinks=True)
            else:
                shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "client", self.root / "client", ignore=NOT_CODE)

    def downgrade(self):
        """Do as `git checkout` of the commit before and scripts/install do."""
        for name in ("reranking_server", "webapp", "pusher", "contracts", "nginx", "supervisor", "client"):
            shutil.rmtree(self.root / name)
        archived(BEFORE, self.root)

    def reranking(self, *arguments):
        done = subprocess.run(
            [*self.prefix, self.python, "-m", "webapp", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def colors(self):
        return json.loads((self.state_dir / ".colors").read_text())

    def described(self):
        """Return the names of the dialects that the code which serves now has."""
        paths = requests.get(f"{self.url}/openapi.json", timeout=PATIENCE_S).json()["paths"].values()
        bodies = [each["post"]["requestBody"]["content"]["application/json"] for each in paths if "post" in each]
        return {name for body in bodies for name in body["examples"]}

    def frames(self):
        return requests.get(f"{self.url}/progress", timeout=PATIENCE_S).json()["frames"]


@pytest.fixture(scope="module")
def stack():
    with tempfile.TemporaryDirectory(prefix="upgrade") as folder:
        if not archived(BEFORE, folder):
            pytest.skip(f"this clone lacks the commit {BEFORE}")
        with Tree(Path(folder), engine="stub", cache_mb="0") as stack:
            stack.dialects = stack.described()
            yield stack


def test_an_upgrade_in_place_loses_no_request(stack):
    load, before = OpenLoop(stack.port, only=stack.dialects), stack.colors()["active"]
    load.learn("before")
    with load:
        stack.upgrade()
        stack.reranking("status")
        said = stack.reranking("deploy", "--watch", "1")
        assert stack.colors()["active"] != before, said
        reached = stack.frames()
        wait_for(lambda: stack.frames() > reached, "the old pusher hears the new workers")
        stack.reranking("restart", "pusher")
        wait_for(stack.frames, "the new pusher, under the old supervisord, hears the workers")
        stack.reranking("restart", "metrics")
        stack.reranking("restart")
        stack.reranking("rollback")
        stack.reranking("deploy", "--again", "--watch", "1")
    assert set(load.outcomes) == {200}, load.outcomes
    assert set(load.by_model) == {"before"}, "the scores are the same"
    served = stack.logged("webapp", lambda line: line["logger"] == "webapp.access")  # by the old supervisord
    assert {line["level"] for line in served} <= {"debug", "info"}
    assert "rerank_requests_total" in requests.get(f"{stack.url}/metrics", timeout=PATIENCE_S).text


def test_a_hangup_of_the_old_serve_has_keys_and_certificate_read_again(stack):
    """`systemctl reload` sends it. nginx closes idle connections at it, so nobody asks meanwhile."""
    before = stack.workers()
    os.kill(stack.process.pid, signal.SIGHUP)
    wait_for(
        lambda: stack.workers() and not set(stack.workers()) & set(before), "new workers have replaced the old ones"
    )
    assert stack.process.poll() is None, "the old `serve` lives on"
    assert json.loads(stack.reranking("status", "--json"))["health"] == "serving"


def test_a_start_with_the_new_code_goes_on_with_the_old_state(stack):
    history = len(stack.colors()["history"])
    assert stack.stop() == 0
    stack.start()
    assert len(stack.colors()["history"]) == history
    assert json.loads(stack.reranking("status", "--json"))["health"] == "serving"


def test_the_way_back_loses_no_request(stack):
    """The code of before again, under a supervisord and a pusher of the new code."""
    load, before = OpenLoop(stack.port, only=stack.dialects), stack.colors()["active"]
    load.learn("new")
    with load:
        stack.downgrade()
        said = stack.reranking("deploy", "--watch", "1")
        assert stack.colors()["active"] != before, said
        stack.reranking("restart", "pusher")
        wait_for(stack.frames, "the old pusher, under the new supervisord, hears the workers")
        stack.reranking("restart", "metrics")
    assert set(load.outcomes) == {200}, load.outcomes
    served = [line["level"] for line in stack.log_lines("webapp") if line["logger"] == "webapp.access"]
    assert set(served) <= {"debug", "info"}
