"""The running service against its own description, by schemathesis."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import Stack

COMMAND = Path(sys.executable).with_name("st")

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

OPTIONS = (
    f"--phases examples,coverage,fuzzing --max-examples 40 --checks {CHECKS} --seed 1 --no-shrink"
    " --generation-database none --no-color"
).split()

LEAST_CASES = 2000


@pytest.mark.conformance
@pytest.mark.skipif(not COMMAND.exists(), reason="schemathesis is not installed")
def test_no_request_gets_what_the_description_does_not_say(tmp_path):
    with Stack(tmp_path, engine="stub") as stack:
        outcome = subprocess.run(
            [str(COMMAND), "run", f"{stack.url}/openapi.json", *OPTIONS],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=540,
            check=False,
        )
    assert outcome.returncode == 0, outcome.stdout[-5000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", outcome.stdout)
    assert cases, outcome.stdout[-2000:]
    assert int(cases[1]) == int(cases[2]) >= LEAST_CASES
