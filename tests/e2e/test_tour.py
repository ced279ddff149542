"""The tour of docs/operations.md, command by command; systemd and users are played by tests/services/machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from running import PATIENCE_S, free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

MACHINE = ROOT / "tests" / "services" / "machine"

COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)

ONLY_WORDS = ("useradd", "userdel", "chown")
"""What the tour says to the machine and the test does not do to it."""


PATIENT = 'grep() { for _ in {1..100}; do command grep "$@" && return; sleep 0.1; done; return 1; }'
"""A human types slowly and finds the line that the last command caused; a script has to look again."""


class Place:
    """Where the page's folders and ports are here."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.state, self.bin = folder / "etc", folder / "state", folder / "bin"
        self._instead = {
            "/opt/reranking": str(folder / "opt"),
            "/etc/": f"{self.etc}/",
            "/var/lib/reranking": str(self.state),
            "8443": str(free_port()),
            "8080": str(free_port()),
        }
        for made in (self.bin, self.etc / "prometheus", self.etc / "systemd" / "system"):
            made.mkdir(parents=True)
        for word in ONLY_WORDS:
            (self.bin / word).symlink_to("/bin/true")
        (self.etc / "prometheus" / "prometheus.yml").write_text("# as it was\n")
        for source in (ROOT / "deploy").glob("*/*.*"):
            copy = folder / "opt" / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(self.with_its_paths_and_ports(source.read_text()))
        (folder / "opt" / ".venv").symlink_to(sys.prefix)

    def with_its_paths_and_ports(self, text: str) -> str:
        return re.sub("|".join(self._instead), lambda found: self._instead[found[0]], text)


@pytest.fixture
def place(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    place = Place(tmp_path)
    yield place
    with suppress(FileNotFoundError, ProcessLookupError):  # the tour's end removes it all
        os.kill(int((place.state / "run" / "serve.lock").read_text()), signal.SIGTERM)


def test_the_tour_runs_as_it_stands_from_install_to_undo(place):
    script = place.with_its_paths_and_ports("\n".join(["set -e", PATIENT, *COMMANDS]))
    outcome = subprocess.run(
        ["/bin/bash", "-c", script],
        env={
            **{name: value for name, value in os.environ.items() if name != "RERANK_CONFIG"},
            "PATH": f"{MACHINE}:{place.bin}:{os.environ['PATH']}",
            "ETC": str(place.etc),
            "RERANK_ENGINE": "stub",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE_S,  # on a busy machine; else half a minute
    )
    said = outcome.stdout
    assert outcome.returncode == 0, said
    assert said.count("serving  http") == 3
    assert "cache_mb             64" in said
    assert '"key":"search"' in said
    assert "SUCCESS: 1 rule files found" in said
    assert not place.state.exists()
    assert (place.etc / "prometheus" / "prometheus.yml~").read_text() == "# as it was\n"
