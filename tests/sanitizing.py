"""The native engine's kernels, compiled with AddressSanitizer, run in a process of their own."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from webapp.engine.runtimes import native

FLAGS = ("-O1", "-g", "-mfma", "-fsanitize=address,undefined", "-fno-sanitize=alignment", "-shared", "-fPIC")


@functools.cache
def sanitized(instructions: tuple[str, ...]) -> Path:
    """Return the kernels for these instructions of a processor, compiled once a process."""
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("no compiler")
    sources = (Path(native.__file__).parent.parent / "native").glob("*.c")
    built = Path(tempfile.mkdtemp(prefix="kernels-")) / "kernels.so"
    subprocess.run([compiler, *FLAGS, *instructions, "-o", built, *sources, "-lm"], check=True)
    return built


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
