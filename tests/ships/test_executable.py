"""The executable, copied to where no Python is."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from packaged import WithoutPython, build_executable, smoke
from running import PATIENCE_S, free_port, wait_for

from webapp import __version__
from webapp.domain.types import RerankRequest
from webapp.servers.local import local_reranker

BUILT = Path(__file__).resolve().parents[2] / "build" / "executable"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUILT.is_dir(), reason="takes minutes to install; run scripts/build-executable before"),
]

SHORT = {"query": "bees", "texts": ["bees find home by the sun", "milk stays fresh"]}

LONG = {"query": "bees", "texts": [f"{number} bees " + "fly home " * 100 for number in range(500)]}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    program = build_executable(tmp_path_factory.mktemp("built"))
    yield program
    shutil.rmtree(program.parent)  # a quarter of a gigabyte, and pytest keeps three runs' folders


def said(program, *arguments):
    """What it says with nothing in its environment."""
    outcome = subprocess.run([program, *arguments], env={}, capture_output=True, text=True, check=False, cwd="/")
    return outcome.returncode, outcome.stdout + outcome.stderr


class Api:
    """`reranking run` of the executable: no PATH, an empty folder."""

    def __init__(self, program, folder, **variables):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.output = folder / "out"
        environment = {"RERANK_PORT": self.url.rpartition(":")[2], "PATH": str(folder / "nothing")} | variables
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [program, "run"], env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        wait_for(self.ready, "it is ready")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def ready(self):
        assert self.process.poll() is None, self.output.read_text()
        try:
            return requests.get(f"{self.url}/ready", timeout=PATIENCE_S).ok
        except requests.ConnectionError:
            return False


def model(settings):
    """The variables that choose the model of these settings."""
    return {"RERANK_MODEL": settings.model, "RERANK_ENGINE": "openvino", "RERANK_PRECISION": "fp32"}


def scores_of(reply):
    return [result["score"] for result in sorted(reply, key=lambda result: result["index"])]


def in_this_process(settings):
    request = RerankRequest(query=SHORT["query"], documents=SHORT["texts"], originals=SHORT["texts"])
    with local_reranker(settings) as local:
        result = local.rerank(request)
    return [score for _, score in sorted(zip(result.order, result.scores, strict=True))]


@pytest.mark.parametrize("name", ["torch", "transformers", "sentence_transformers", "nncf", "pytest"])
def test_it_lacks_what_serving_does_not_need(program, name):
    code, words = said(program, "-m", name)
    assert code == 1
    assert f"No module named {name}" in words


def test_it_has_a_version_and_no_torch(program):
    assert said(program, "--version") == (0, f"{__version__}\n")
    assert list(program.parent.rglob("*torch*")) == []


def test_what_it_can_not_do_it_says_in_a_line(program, tmp_path):
    code, words = said(program, "prepare", "--state-dir", str(tmp_path / "state"))
    assert code == 1
    assert words.startswith("reranking: preparing a model needs sentence-transformers, which is not here;")
    assert words.count("\n") == 1


def test_the_api_alone_scores_as_a_clone_does_and_finishes_what_it_has_when_told_to_end(
    program, bert_settings, tmp_path
):
    variables = model(bert_settings) | {"RERANK_STATE_DIR": str(bert_settings.state_dir)}
    with Api(program, tmp_path, **variables) as api, ThreadPoolExecutor() as beside:
        scores = requests.post(f"{api.url}/rerank", json=SHORT, timeout=PATIENCE_S).json()
        assert scores_of(scores) == pytest.approx(in_this_process(bert_settings), abs=1e-5)
        request = beside.submit(requests.post, f"{api.url}/rerank", json=LONG, timeout=PATIENCE_S)
        wait_for(
            lambda: requests.get(f"{api.url}/info", timeout=PATIENCE_S).json()["ongoing_requests"], "it is at work"
        )
        api.process.terminate()
        assert len(scores_of(request.result().json())) == len(LONG["texts"])
        assert api.process.wait(PATIENCE_S) == 0


def test_all_of_it_serves_with_the_model_beside_it_and_runs_no_python(program, bert_settings, tmp_path):
    with WithoutPython(program, tmp_path, artifacts_from=bert_settings.state_dir, model=bert_settings.model) as stack:
        seen = smoke(stack.url)
        assert seen.returncode == 0, seen.stdout
        family = [psutil.Process(stack.process.pid), *stack.family()]
        programs = {Path(process.exe()).name for process in family}
        assert programs == {"reranking", "nginx"}
        mapped = {Path(file.path) for process in family for file in process.memory_maps()}
        assert [path for path in mapped if "python" in str(path) and program.parent not in path.parents] == []
        assert stack.stop() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["path"]


def test_each_program_has_a_command(program):
    assert said(program, "keeper", "--help")[1].startswith("usage: python -m webapp.stack.supervisor.logging")
