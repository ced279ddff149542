"""scripts/smoke knows the whole API."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

from webapp.api.app import ENDPOINTS

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "smoke")
SPEC = importlib.util.spec_from_loader("smoke", SourceFileLoader("smoke", SCRIPT))


def test_it_knows_what_to_send_to_every_endpoint():
    smoke = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(smoke)
    assert set(smoke.POSTS) == {each.removeprefix("POST ") for each in ENDPOINTS if each.startswith("POST ")}
