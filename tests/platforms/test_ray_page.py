"""docs/ray.md: what "Try it" says, typed in its order by a user who has run nothing of Ray before."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from running import PATIENCE_S, alive, wait_for

pytestmark = pytest.mark.platforms

ROOT = Path(__file__).resolve().parents[2]
QUESTION = '{"query": "how do bees find home", "texts": ["milk", "bees fly home by the sun"]}'


def commands():
    """Return those of the page's section, without what it says about them."""
    section = (ROOT / "docs" / "ray.md").read_text().split("## Try it")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]


class Terminal:
    """A shell with a network and processes of its own: the page's ports are free, and `ray stop` sees no others."""

    def __init__(self, folder: Path) -> None:
        """Start it in `folder`, with a home directory that is empty."""
        home = tempfile.mkdtemp(prefix="home")  # sockets in it need a short path
        self._home, self._said = Path(home), Path(home) / "said"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RERANK_", "RAY_"))}
        apart = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self._said.open("w") as said:
            self._shell = subprocess.Popen(
                [*apart, "bash", "-m"],  # -m: each command is a process group, as in a terminal
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                # A clone's `var` is the default; this one is made of links to another.
                env={**own, "HOME": home, "RAY_TMPDIR": home, "RERANK_STATE_DIR": str(folder / "var")},
                cwd=folder,
                text=True,
            )
        self.run("ip link set lo up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._shell.kill()
        self._shell.stdin.close()
        self._shell.wait(PATIENCE_S)
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def token(self) -> Path:
        return self._home / ".ray" / "auth_token"

    def type(self, command: str) -> None:
        self._before = len(self._said.read_text())
        self._shell.stdin.write(f'{command}\necho "ended: $?"\n')
        self._shell.stdin.flush()

    def said(self) -> str:
        """Return what the last command has said."""
        return self._said.read_text()[self._before :]

    def _code(self) -> str | None:
        found = re.search(r"^ended: (\d+)$", self.said(), re.MULTILINE)
        return found and found[1]

    def ended(self) -> str:
        """Wait until the command has ended, as it should; return what it said."""
        assert wait_for(self._code, "the command ends") == "0", self.said()
        return self.said()

    def answer(self, url: str) -> str:
        """Wait for an answer to the question while the last command runs; return it."""
        wait_for(lambda: self.ask(url) or self._code(), "an answer")
        return self.ask(url)

    def run(self, command: str) -> str:
        self.type(command)
        return self.ended()

    def programs(self) -> list[psutil.Process]:
        """Return the shell's children, with those that others left to it."""
        (shell,) = psutil.Process(self._shell.pid).children()
        return [each for each in shell.children() if alive(each)]

    def press_ctrl_c(self) -> None:
        (program,) = self.programs()
        os.killpg(os.getpgid(program.pid), signal.SIGINT)

    def ask(self, url: str) -> str:
        """Return the answer to the question; "" if there is none."""
        inside = ["nsenter", "--net", f"--target={psutil.Process(self._shell.pid).children()[0].pid}"]
        call = ["curl", "--noproxy", "*", "--silent", "--fail", f"{url}/rerank", "--data", QUESTION]
        return subprocess.run([*inside, *call], capture_output=True, text=True, check=False).stdout


@pytest.fixture
def clone(tmp_path):
    """A folder like the clone, with `var` of its own. Ray is installed before, as there is no network later."""
    for tool in ("unshare", "nsenter", "ip", "curl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")
    if os.geteuid() != 0:
        pytest.skip("root is missing: a network of one's own needs it")
    subprocess.run([ROOT / "scripts" / "ray"], check=True, capture_output=True)
    for entry in ROOT.iterdir():
        if entry.name not in {"var", "reranking.yaml"}:
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def test_the_page_of_ray_works_from_top_to_bottom(clone):
    serve, install, export, serve_run, edit, start, deploy, status, config, build, stop = commands()
    with Terminal(clone) as terminal:
        terminal.type(serve)
        expected = terminal.answer("http://127.0.0.1:8080")
        assert expected.startswith('[{"index":1,'), terminal.said()
        wait_for(lambda: "Ready: " in terminal.said(), "it says so")
        terminal.press_ctrl_c()
        terminal.ended()
        terminal.run(install)
        terminal.run(export)

        terminal.type(serve_run)
        assert terminal.answer("http://127.0.0.1:8000") == expected, terminal.said()
        terminal.press_ctrl_c()
        terminal.ended()
        wait_for(lambda: terminal.programs() == [], "the cluster has ended")
        assert terminal.token.stat().st_mode & 0o077 == 0, "the token is its owner's"

        terminal.run(edit)
        terminal.run(start)
        terminal.run(deploy)
        wait_for(lambda: "RUNNING: 2" in terminal.run(status), "both replicas run")
        assert "HEALTHY" in terminal.said()
        assert terminal.ask("http://127.0.0.1:8000") == expected
        assert "import_path: reranking_server.ray_app:app" in terminal.run(config)
        terminal.run(build)
        assert "import_path: reranking_server.ray_app:app" in (clone / "var" / "mine.yaml").read_text()
        terminal.run(stop)
        wait_for(lambda: terminal.programs() == [], "nothing of Ray is left")
