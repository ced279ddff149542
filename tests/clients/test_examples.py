"""The examples of docs/clients.md, examples/ and the README, run as they stand there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import pytest

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).resolve().parents[2]

PAGE = ROOT / "docs" / "clients.md"

NOTES = (ROOT / "examples" / "notes.txt").read_text().splitlines()

QUESTION = ["how do bees find home", "examples/notes.txt"]

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


def run(*command, **variables):
    """What it says, started in the clone."""
    outcome = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_the_example_in_javascript_ranks_a_file(stack):
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    lines = run(node, "examples/rerank.mjs", stack.url, *QUESTION).splitlines()
    scores, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert sorted(texts) == sorted(NOTES)
    assert list(scores) == sorted(scores, key=float, reverse=True)


def test_the_example_in_cpp_compiles_without_a_warning_and_ranks_a_file(stack, tmp_path):
    if not (compiler := shutil.which("g++")):
        pytest.skip("g++ is not installed")
    headers = subprocess.run(
        [compiler, "-E", "-x", "c++", "-"], input=b"#include <curl/curl.h>", capture_output=True, check=False
    )
    if headers.returncode:
        pytest.skip("libcurl's headers are not installed")
    program = tmp_path / "rerank"
    strict = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]
    run(compiler, *strict, "examples/rerank.cpp", "-lcurl", "-o", program)
    query, file = QUESTION
    results = json.loads(run(program, stack.url, f'{query} "\\\t', file))["results"]
    assert sorted(result["content"] for result in results) == sorted(NOTES)


def test_the_readme_s_command_ranks_its_file(stack):
    """Run the command as it stands there, from the clone."""
    (command,) = re.findall(r"^\.venv/bin/reranking (rerank .*?) +#", (ROOT / "README.md").read_text(), re.MULTILINE)
    words = shlex.split(command)
    assert words[2].endswith("notes.txt")
    said = run(sys.executable, "-m", "webapp", *words, RERANK_URL=stack.url)
    assert all(note in said for note in NOTES)
