"""The wheel in an environment that holds what it asks for and nothing else; the executable where no Python is.

The wheel's dependencies are linked from the environment of the tests, which costs a second where pip would take a
minute. So what is not seen here is whether pip finds them; which ones are there follows from the wheel alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from running import Stack

ROOT = Path(__file__).resolve().parents[1]


def build_wheels(folder: Path) -> list[Path]:
    """Build the service's wheel and the client's with `scripts/build-wheel`; return their paths, in this order."""
    subprocess.run([ROOT / "scripts" / "build-wheel", folder], check=True, capture_output=True)
    (service,) = folder.glob("reranking-*.whl")
    (client,) = folder.glob("reranking_client-*.whl")
    return [service, client]


def build_executable(folder: Path) -> Path:
    """Run `scripts/build-executable` without a model, and return the program."""
    variables = {**os.environ, "RERANK_ENGINE": "stub"}
    subprocess.run([ROOT / "scripts" / "build-executable", folder], check=True, capture_output=True, env=variables)
    return folder / "reranking" / "reranking"


def environment(folder: Path, wheels: list[Path]) -> Path:
    """Make one with the wheels in it; returns its Python."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    for metadata in place.glob("reranking*.dist-info"):
        link(PathDistribution(metadata), set(), place, {"reranking"})
    return python


def link(of: Distribution, extras: set[str], place: Path, done: set[str]) -> None:
    """Link what a distribution asks for, and what that asks for."""
    for line in of.requires or ():
        wanted = Requirement(line)
        applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in (extras or {""}))
        # An extra of something linked may ask for more.
        if not applies or (asked := f"{wanted.name} {sorted(wanted.extras)}") in done:
            continue
        done.add(asked)
        found = distribution(wanted.name)
        for file in found.files or ():
            top, source = place / file.parts[0], Path(found.locate_file(file.parts[0]))
            if file.parts[0] not in {"..", "__pycache__"} and not top.exists():
                top.symlink_to(source)
        link(found, wanted.extras | {""}, place, done)


class Installed(Stack):
    """`reranking serve` of what was installed or built, started in a folder of its own; its state is in `home`."""

    def __init__(self, command: Path, folder: Path, home: Path | None = None, **options) -> None:
        super().__init__((home or folder) / "var", **options)
        del self._environment["RERANK_STATE_DIR"]  # it is the default
        self._command, self._folder = [str(command), "serve"], folder

    def begin(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._output = self.state_dir / "serve.out"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, cwd=self._folder
            )


class WithoutPython(Installed):
    """The same where nothing is on PATH but what `serve` starts beside its own programs."""

    def __init__(self, command: Path, folder: Path, **options) -> None:
        super().__init__(command, folder, home=command.parent, **options)
        path = folder / "path"
        path.mkdir()
        for name in ("nginx", "setpriv", "sh", "cat"):
            found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
            assert found, name
            (path / name).symlink_to(found)
        own = {name: value for name, value in self._environment.items() if name.startswith("RERANK_")}
        self._environment = {**own, "PATH": str(path)}


def smoke(url: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    """What `scripts/smoke` says of a service."""
    return subprocess.run([python, ROOT / "scripts" / "smoke", url], capture_output=True, text=True, check=False)
