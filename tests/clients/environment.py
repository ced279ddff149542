"""Environments of the clients: made once, kept beside the project's own, remade when their requirements change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def python_of(name: str) -> Path:
    """The interpreter of an environment with `requirements<name>.txt` installed."""
    requirements = HERE / f"requirements{name}.txt"
    home = ROOT / f".venv-clients{name}"
    stamp, wanted = home / "stamp", hashlib.sha256(requirements.read_bytes()).hexdigest()
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # files run side by side, and more than one needs it
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(home, with_pip=True, clear=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            if subprocess.run([*map(str, pip), "-r", str(requirements)], check=False).returncode:
                pytest.skip(f"the packages of {requirements.name} can't be installed here; see above")
            stamp.write_text(wanted)
    return home / "bin" / "python"


def run(name: str, script: Path, *arguments: str) -> str:
    """Standard output of a script in such an environment; what it says otherwise goes where ours goes."""
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False", "DO_NOT_TRACK": "1"}
    command = [str(python_of(name)), "-W", "ignore", str(script), *arguments]
    outcome = subprocess.run(
        command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, stderr=sys.stderr.fileno(), text=True, check=False
    )
    if outcome.returncode:
        raise AssertionError(f"{script.name} ended with {outcome.returncode}; see above")
    return outcome.stdout
