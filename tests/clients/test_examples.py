"""The examples of docs/clients.md, run as they stand there."""

import re
import subprocess
from pathlib import Path

import environment
import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "clients.md"

BLOCKS = re.findall(r"```(python \w+|bash)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_has_examples():
    assert len(BLOCKS) >= 15


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(BLOCKS)])
def test_an_example_runs(stack, tmp_path, language, code):
    """`python vendors` names the environment, tests/clients/requirements-vendors.txt."""
    code = re.sub(r"\bURL", stack.url, code).replace("KEY", "any-key")
    if language == "bash":
        code = code.replace("curl -s", "curl -s --fail-with-body")
        outcome = subprocess.run(["/bin/bash", "-c", code], capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, outcome.stdout
        said = outcome.stdout
    else:
        script = tmp_path / "example.py"
        script.write_text(code)
        name = language.removeprefix("python ")
        said = environment.run("" if name == "clients" else f"-{name}", script)
    assert said.strip()
