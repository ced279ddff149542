"""The native engine's kernels, compiled with AddressSanitizer, run in a process of their own."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kernel_builds
import pytest

FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off", "-fPIC")


@functools.cache
def sanitized() -> Path:
    """Return the kernels for all of this machine's instruction sets, compiled once a process."""
    if not shutil.which("gcc"):
        pytest.skip("no compiler")
    return kernel_builds.library(Path(tempfile.mkdtemp(prefix="kernels-")) / "kernels.so", *FLAGS)


def run_clean(script: str, *arguments: str) -> None:
    """Run Python code that loads them, and fail if it does not end with `clean`."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "clean", done.stderr[-3000:]
