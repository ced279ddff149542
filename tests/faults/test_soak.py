"""bench/soak.py, for a minute; by itself it takes half an hour."""

import subprocess
import sys
from pathlib import Path

import pytest

MINUTES = 1.2

MOST_MB_A_MINUTE = 25
"""Over less than a minute an allocator's steps are steep; a leak of a request's documents would be steeper."""


@pytest.mark.slow
def test_mixed_load_leaks_nothing_and_fails_nobody(stack_with):
    script = Path(__file__).parents[2] / "bench" / "soak.py"
    with stack_with(cache_mb="1", log_level="info") as stack:
        command = [sys.executable, str(script), "--minutes", str(MINUTES), "--most-mb-a-minute", str(MOST_MB_A_MINUTE)]
        outcome = subprocess.run(
            [*command, "--attach", str(stack.port), str(stack.process.pid)], capture_output=True, text=True, check=False
        )
    print(outcome.stdout)  # noqa: T201 - the figures for docs/reliability.md
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
