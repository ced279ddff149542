"""Installing the dashboard's packages, with an npm that is ours."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

SETUP = (ROOT / "scripts" / "setup.sh").read_text()
FUNCTIONS = "\n".join(re.findall(r"^(?:setup|fetch)_dashboard\(\) \{.*?^\}", SETUP, re.DOTALL | re.MULTILINE))


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "pusher" / "dashboard"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "pusher" / "dashboard" / "package-lock.json", folder)
    (tmp_path / "bin").mkdir()
    return tmp_path


def install(tree, npm):
    (tree / "bin" / "npm").write_text(f"#!/bin/sh\n{npm}\n")
    (tree / "bin" / "npm").chmod(0o755)
    begin = f'set -u\nROOT="{tree}" VENV="{tree}/.venv"\nsource "{ROOT}/scripts/stages.sh"\n'
    script = f"{begin}{FUNCTIONS}\nsetup_dashboard\necho went on\n"
    environment = {**os.environ, "PATH": f"{tree}/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_packages_are_installed_once(tree):
    assert "Installing" in install(tree, "mkdir -p node_modules")
    assert install(tree, "exit 1") == "went on\n"


def test_a_new_lock_file_installs_again(tree):
    install(tree, "mkdir -p node_modules")
    (tree / "pusher" / "dashboard" / "package-lock.json").write_text("{}")
    assert "Installing" in install(tree, "mkdir -p node_modules")


def test_what_can_t_be_installed_is_said_and_serving_goes_on(tree):
    said = install(tree, "echo a stack trace >&2; exit 1")
    assert "could not be installed: its live view will say so" in said
    assert said.endswith("went on\n")
    assert "Installing" in install(tree, "mkdir -p node_modules")
