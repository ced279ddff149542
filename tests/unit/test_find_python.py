"""Which Python the scripts make their environment with."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FUNCTION = re.search(
    r"^find_python\(\) \{.*?^\}", (ROOT / "scripts" / "setup.sh").read_text(), re.DOTALL | re.MULTILINE
)[0]

OLD = "exit 1"
WITHOUT_VENV = 'case "$2" in *venv*) exit 1 ;; esac'
WHOLE = "exit 0"


@pytest.fixture
def found(tmp_path):
    def find(*, system=OLD, named=None, **on_path):
        """The path, from `tmp_path`, of what is found; "" for nothing."""
        pythons = {"system/python3": system, **{f"bin/{name}": does for name, does in on_path.items()}}
        pythons |= {"mine/python": named} if named else {}
        for name, does in pythons.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}/bin", "PYTHON": f"{tmp_path}/mine/python" if named else ""}
        script = f"set -u\n{FUNCTION}\nfind_python".replace("/usr/bin/", f"{tmp_path}/system/")
        outcome = subprocess.run(
            ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        return outcome.stdout.strip().removeprefix(f"{tmp_path}/")

    return find


def test_the_system_s_python_goes_first(found):
    assert found(system=WHOLE, python3=WHOLE) == "system/python3"


def test_a_system_s_python_that_is_too_old_is_passed_over(found):
    assert found(system=OLD, python3=WHOLE) == "bin/python3"
    assert found(system=OLD, python3=OLD, **{"python3.12": WHOLE}) == "bin/python3.12"


def test_one_that_lacks_venv_is_the_last_resort(found):
    assert found(system=WITHOUT_VENV, **{"python3.12": WHOLE}) == "bin/python3.12"
    assert found(system=WITHOUT_VENV, python3=OLD, **{"python3.12": OLD}) == "system/python3"


def test_one_that_is_named_is_the_one_and_nothing_replaces_it(found):
    assert found(system=WHOLE, named=WITHOUT_VENV) == "mine/python"
    assert found(system=WHOLE, named=OLD) == ""
