"""The servers that ours is measured against, each a process of its own on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness

PEERS = harness.STATE_DIR / "peers"
"""A virtual environment with infinity, made by scripts/bench --peers."""

START_TIMEOUT_S = 180


@contextlib.contextmanager
def reference(model: Path) -> Iterator[int]:
    """Run the tutorials' server; yield its port."""
    port = harness.free_port()
    script = Path(__file__).with_name("reference_server.py")
    with _running([sys.executable, str(script), str(model), str(port)], port, "/docs"):
        yield port


@contextlib.contextmanager
def infinity(model: Path, engine: str) -> Iterator[int]:
    """Run Infinity with its `torch` engine, or with `optimum` on the ONNX model in int8; yield its port."""
    port = harness.free_port()
    if engine == "optimum":
        model = _onnx(model)
    command = [str(PEERS / "bin" / "infinity_emb"), "v2", "--model-id", str(model), "--served-model-name", "bench"]
    command += ["--engine", engine, "--device", "cpu", "--port", str(port), "--no-bettertransformer"]
    with _running(command, port, "/health"):
        yield port


def _onnx(model: Path) -> Path:
    target = harness.STATE_DIR / f"{model.name}-onnx-int8"
    if not target.exists():
        script = Path(__file__).with_name("export_onnx.py")
        subprocess.run([PEERS / "bin" / "python", script, model, target], check=True, capture_output=True)
    return target


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, path: str) -> Iterator[None]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(process, f"http://127.0.0.1:{port}{path}")
            yield
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{process.args} did not start")
