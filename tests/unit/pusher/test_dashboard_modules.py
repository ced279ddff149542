"""The dashboard's pure modules, by node's own test runner."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2] / "dashboard"


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("name", ["store", "dom", "playground"])
def test_the_pure_modules_keep_their_promises(name):
    outcome = subprocess.run(
        [NODE, "--test", str(TESTS / f"{name}.test.mjs")], capture_output=True, text=True, check=False, timeout=60
    )
    assert outcome.returncode == 0, outcome.stdout
