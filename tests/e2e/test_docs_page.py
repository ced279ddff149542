"""The API page in a real browser."""

import shutil
import subprocess

import pytest
from running import PATIENCE_S

CHROMIUM = shutil.which("chromium")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --virtual-time-budget=8000"
).split()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_swagger_ui_shows_the_routes(stack, tmp_path):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", f"{stack.url}/docs"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    assert "/rerank/batch" in page
    assert "several requests of ours together" in page
