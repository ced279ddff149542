"""scripts/smoke knows the whole API."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from asking import post

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "smoke")
SPEC = importlib.util.spec_from_loader("smoke", SourceFileLoader("smoke", SCRIPT))


@pytest.fixture
def smoke(monkeypatch):
    module = importlib.util.module_from_spec(SPEC)
    monkeypatch.setitem(sys.modules, "smoke", module)  # where dataclasses look for their module
    SPEC.loader.exec_module(module)
    return module


def test_it_finds_in_the_description_what_to_send_to_every_endpoint(smoke, client):
    described = client.get("/openapi.json").json["paths"]
    sent = {path: smoke.example_of(methods["post"]) for path, methods in described.items() if "post" in methods}
    assert "/tokenize" in sent
    for path, body in sent.items():
        assert "model" not in body
        reply = post(client, path.replace("{model}", "any"), body)
        assert reply.status_code == 200, path
        assert path in ("/tokenize", "/predict") or len(list(smoke.scores_in(reply.json))) >= 2, path
