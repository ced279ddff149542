"""The hub path, against a small server that speaks the hub's protocol."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from running import PATIENCE_S

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.prepare import resolve as resolving

COMMIT = "0123456789abcdef0123456789abcdef01234567"

FILES = {
    "config.json": b'{"architectures": ["BertForSequenceClassification"]}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"old",
    "pytorch_model.bin.index.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/pytorch_model.bin": b"of torch alone",
}


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def _answer(self, *, with_body):
        status, body, headers = 404, b"{}", {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"}
        if self.path.startswith("/api/models/refused/"):
            status = int(self.path.rpartition("/")[2])
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
        if self.path.startswith("/api/models/team/reranker"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            answer = {"id": "team/reranker", "sha": COMMIT, "siblings": siblings}
            if "/tree/" in self.path:
                answer = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in FILES.items()
                ]
            status, body, headers = 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        for name, data in FILES.items():
            if self.path.split("?")[0] == f"/team/reranker/resolve/{COMMIT}/{name}":
                status, body, headers = 200, data, {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SCRIPT = """
import sys
from webapp.engine.prepare.resolve import resolve
from webapp.domain.errors import SetupError
from webapp.config.settings import load_settings
try:
    source = resolve(load_settings(), print)
except SetupError as error:
    sys.exit(f"SetupError: {error}")
print(source.model, source.revision, source.directory, source.substitute_for)
"""


def resolve_in_a_process(endpoint, tmp_path, **variables):
    """huggingface_hub reads its environment at import, so each try is a process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RERANK_"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "RERANK_STATE_DIR": str(tmp_path),
        **variables,
    }
    outcome = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return outcome.stdout + outcome.stderr


def test_a_hub_id_becomes_files_and_a_commit(hub, tmp_path):
    said = resolve_in_a_process(hub, tmp_path, RERANK_MODEL="team/reranker")
    assert f"team/reranker {COMMIT}" in said
    (directory,) = (tmp_path / "models" / "hub").iterdir()
    assert (directory / "model.safetensors").read_bytes() == b"weights"
    assert not list(directory.glob("pytorch_model.bin*")), "the same weights in an older format"
    assert (directory / "2_Dense" / "pytorch_model.bin").read_bytes() == b"of torch alone"


def test_a_model_that_the_hub_does_not_have_is_an_error(hub, tmp_path):
    said = resolve_in_a_process(hub, tmp_path, RERANK_MODEL="team/nothing")
    assert "SetupError: RERANK_MODEL: the hub has no model team/nothing" in said


@pytest.mark.parametrize("status", [400, 401])
def test_a_hub_that_refuses_is_one_line_with_its_status(hub, tmp_path, status):
    said = resolve_in_a_process(hub, tmp_path, RERANK_MODEL=f"refused/{status}")
    assert len(said.splitlines()) == 1
    assert f"SetupError: RERANK_MODEL: the hub refuses to describe refused/{status}, it answers {status} (" in said


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_is_one_that_can_t_be_reached(hub, tmp_path, status):
    said = resolve_in_a_process(hub, tmp_path, RERANK_MODEL=f"refused/{status}")
    assert len(said.splitlines()) == 1
    assert f"can't be fetched (the hub answered {status})" in said


NO_IDS = [
    "my model",
    "team/my model",
    "../model/x..y",
    "a..b",
    "a--b",
    "https://huggingface.co/team/reranker",
    "team/reranker.git",
    "a/b/c",
    "team/",
    "team/" + "x" * 200,
    "x" * 5000,
    "größe/modell",
    "team/mod\nel",
    "team/mod\0el",
    "-team/model",
    "team/model-",
    "~nobody-of-this-name/model",
]


@pytest.mark.parametrize("model", NO_IDS, ids=lambda model: ascii(model)[:30])
def test_what_is_no_id_of_a_model_is_one_line_that_says_what_an_id_looks_like(tmp_path, model):
    with pytest.raises(SetupError) as refused:
        resolving.resolve(Settings(model=model, state_dir=tmp_path), print)
    said = str(refused.value)
    assert said.startswith("RERANK_MODEL: ")
    assert "as in sentence-transformers/all-MiniLM-L6-v2" in said or "there is no directory" in said
    assert said.isprintable()
    assert said.isascii()
    assert len(said) < 400


@given(st.text("aZ9._-/", min_size=1, max_size=12))
@example("cross-encoder/ms-marco-MiniLM-L6-v2")
@example("gpt2")
@example("a" * 96)
def test_what_we_take_for_an_id_the_hub_s_client_takes_too(model):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
        valid = True
    except HFValidationError:
        valid = False
    taken = resolving.MODEL_ID.fullmatch(model) is not None
    assert not taken or valid
    assert taken or not valid or model[0] in "_." or "/_" in model or "/." in model, "too strict"


def test_the_default_model_that_the_hub_does_not_have_is_an_error_too(hub, tmp_path):
    said = resolve_in_a_process(hub, tmp_path)
    assert "SetupError: RERANK_MODEL: the hub has no model" in said


def count_connections(listener):
    """Count those that came and were never accepted."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


@pytest.fixture(params=["refused", "silent", "no name"])
def dead_endpoint(request):
    """A hub that is not there: nobody listens, nobody answers, or its name leads nowhere."""
    if request.param == "no name":
        yield "http://hub.invalid"
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        if request.param == "silent":
            assert count_connections(listener) == 1, "one probe decides"


def test_without_a_hub_the_default_gives_way_to_the_embedded_model_and_says_so(dead_endpoint, tmp_path):
    said = resolve_in_a_process(dead_endpoint, tmp_path)
    assert "serving the embedded sentence-transformers/all-MiniLM-L6-v2 in its place" in said
    assert "cross-encoder/ms-marco-MiniLM-L6-v2" in said.splitlines()[-1]


def test_without_a_hub_a_named_model_is_an_error_and_never_replaced(dead_endpoint, tmp_path):
    said = resolve_in_a_process(dead_endpoint, tmp_path, RERANK_MODEL="cross-encoder/ms-marco-MiniLM-L6-v2")
    assert "SetupError: RERANK_MODEL: cross-encoder/ms-marco-MiniLM-L6-v2 can't be fetched" in said
    assert "embedded" not in said


def test_a_missing_directory_is_an_error_with_its_name(tmp_path):
    with pytest.raises(SetupError, match="no directory /nowhere/model"):
        resolving.resolve(Settings(model="/nowhere/model", state_dir=tmp_path), print)


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(SetupError, match="holds no weights"):
        resolving.resolve(Settings(model=str(tmp_path), state_dir=tmp_path), print)


def test_an_embedded_model_that_is_not_the_published_one_is_refused(monkeypatch):
    monkeypatch.setattr(resolving, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(SetupError, match="is not the published model"):
        resolving._embedded("x")
