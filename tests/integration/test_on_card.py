"""The GPU runtime on a stand-in for a card (`card_kit`): recorded passes, threads, and memory that is too small."""

import functools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from card_kit import attend_by_mask, stand_in
from small_decoders import build_decoder
from small_encoders import build_modernbert
from small_models import build_bert, build_xlm_roberta

from webapp.config.paths import ROOT
from webapp.domain.errors import EngineFailedError, EngineLostError, SetupError
from webapp.engine.models.original import load_source
from webapp.engine.prepare.pack_floats import pack_floats
from webapp.engine.runtimes.gpu import card, device, recorded
from webapp.engine.runtimes.gpu.device import GpuRuntime, OnCard
from webapp.engine.runtimes.gpu.graph import Graph

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = (64, 128, 256)


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    for module in (recorded, device):
        monkeypatch.setattr(module, "TOKENS", SIZES)
    monkeypatch.setattr(device, "PROBE_TOKENS", 256)


MODELS = {
    "bert": build_bert,
    "xlm-roberta": build_xlm_roberta,
    "modernbert": build_modernbert,
    "qwen3": lambda directory: build_decoder(directory, name="Qwen/Qwen3-Reranker-0.6B"),
}


def packed(directory, kind):
    """Write a small model's file; return its path."""
    source = load_source(MODELS[kind](directory / "original"))
    assert pack_floats(source, directory / "model.safetensors", torch.float32)
    return directory / "model.safetensors"


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """A small model's file."""
    return packed(tmp_path_factory.mktemp("packed"), request.param)


@pytest.fixture
def here(model):
    runtime = GpuRuntime(model, "fp32")
    runtime.start(1)
    return runtime


def on_card(runtime, attention=attend_by_mask):
    graph = Graph(runtime.shape, tensors_of(runtime), torch.float32, attention)
    return OnCard(graph, torch.device("cpu"))


def tensors_of(runtime):
    return {name: runtime._file.get_tensor(name) for name in runtime._file.keys()}  # noqa: SIM118 - no dict


def rows(runtime, random, count, longest):
    """Ids, mask and types of rows, of which the first tokens are the same."""
    ids = random.integers(5, 90, (count, longest))
    ids[:, :3] = [7, 8, 9]
    lengths = random.integers(4, longest + 1, count)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    types = np.zeros_like(ids)
    types[:, 3:] = runtime.shape["types"] != 1  # of a decoder, which has no table of them, they say what may be shared
    return ids * mask, mask, types * mask


def test_a_pass_that_was_recorded_gives_what_the_model_gives(here, monkeypatch):
    found = stand_in(monkeypatch)
    there = on_card(here)
    random = np.random.default_rng(1)
    for count, longest in [(1, 5), (3, 20), (2, 60), (9, 12), (5, 30), (30, 8)]:
        asked = rows(here, random, count, longest)
        assert np.abs(there.compute(*asked) - here.open()(*asked)).max() < 1e-5, (count, longest)
    assert sum(graph.replays for graph in found.graphs) >= 5, "small batches are replayed"


def test_a_batch_that_no_recorded_pass_holds_is_computed_at_once(here, monkeypatch):
    found = stand_in(monkeypatch)
    there = on_card(here)
    asked = rows(here, np.random.default_rng(2), 20, 30)
    assert np.abs(there.compute(*asked) - here.open()(*asked)).max() < 1e-5
    assert not sum(graph.replays for graph in found.graphs)


def test_threads_share_a_card(here, monkeypatch):
    stand_in(monkeypatch)
    there = on_card(here)
    random = np.random.default_rng(3)
    asked = [rows(here, random, int(random.integers(1, 20)), int(random.integers(4, 30))) for _ in range(40)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda each: there.compute(*each), asked))
    for each, scores in zip(asked, found, strict=True):
        assert np.abs(scores - here.open()(*each)).max() < 1e-5


def test_without_a_compiler_nothing_is_compiled_and_all_is_computed(here, monkeypatch, caplog):
    def without_compiler(_function):
        def compiled(*_arguments):
            raise RuntimeError("Failed to find C compiler")

        return compiled

    stand_in(monkeypatch, compiled=without_compiler)
    there = on_card(here)
    asked = rows(here, np.random.default_rng(4), 3, 20)
    assert np.abs(there.compute(*asked) - here.open()(*asked)).max() < 1e-5
    assert "nothing is compiled for the card" in caplog.text


def test_what_is_compiled_is_one_graph_for_any_number_of_tokens(here, monkeypatch):
    made = []

    def count(module, _inputs):
        made.append(module)
        return module

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    random = np.random.default_rng(7)
    asked = [rows(here, random, count, longest) for count, longest in [(2, 9), (3, 17), (20, 30), (5, 11)]]
    expected = [here.open()(*each) for each in asked]
    here._graph.compile()
    try:
        found = [here.open()(*each) for each in asked[:2]]
        here._graph.stop_marking()
        before = len(made)
        found += [here.open()(*each) for each in asked[2:]]
    finally:
        here._graph.compile_nothing()
    assert len(made) == before, "no size of a batch compiles anything again"
    assert max(np.abs(one - other).max() for one, other in zip(found, expected, strict=True)) < 1e-5


def test_attention_that_can_t_be_recorded_is_not(here, monkeypatch):
    found = stand_in(monkeypatch)
    there = on_card(here, here._graph._attend)
    asked = rows(here, np.random.default_rng(5), 3, 20)
    assert np.abs(there.compute(*asked) - here.open()(*asked)).max() < 1e-5
    assert found.graphs == []


def test_a_card_whose_memory_is_too_small_is_refused_with_figures(here, monkeypatch):
    stand_in(monkeypatch, free_bytes=10_000_000)
    with pytest.raises(SetupError, match=r"RERANK_MODEL: 10 MB of the card are free .*; end what else computes"):
        on_card(here)


IN_A_WORKER = """
import sys
from pathlib import Path

config = Path("gunicorn_config.py").read_text()
exec(config[: config.index("import os")])  # what comes first in a gunicorn process
import os
import subprocess

import numpy as np
import pytest
import torch

sys.path[:0] = [os.getcwd(), str(Path("tests").resolve())]
from card_kit import attend_by_mask, stand_in
from safetensors.torch import load_file
from webapp.domain.concurrency import NativeWaiter, start_native_thread
from webapp.engine.runtimes.gpu import device, recorded
from webapp.engine.runtimes.gpu.device import GpuRuntime, OnCard
from webapp.engine.runtimes.gpu.graph import Graph

for module in (recorded, device):
    module.TOKENS = (64, 128)
device.PROBE_TOKENS = 256
path = Path(sys.argv[1])
runtime = GpuRuntime(path, "fp32")
stand_in(pytest.MonkeyPatch())
cards, failed = [], []


def run(*steps):
    waiters = []
    for step in steps:
        waiters.append(waiter := NativeWaiter())

        def work(step=step, waiter=waiter):
            try:
                step()
            except BaseException as error:
                failed.append(error)
            waiter.wake()

        start_native_thread(work, ())
    assert all(waiter.wait(300) for waiter in waiters), "a thread waits for ever"
    assert not failed, failed


def start():
    subprocess.run([sys.executable, "-c", ""], check=True)  # as torch runs a compiler
    cards.append(OnCard(Graph(runtime.shape, load_file(path), torch.float32, attend_by_mask), torch.device("cpu")))


def compute():
    ids = np.full((3, 9), 7)
    for _ in range(60):
        cards[0].compute(ids, np.ones_like(ids), np.zeros_like(ids))


run(start)
run(compute, compute, compute)
"""


def test_native_threads_of_a_gunicorn_worker_share_a_card_and_start_a_compiler(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_WORKER, str(packed(tmp_path, "bert"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Memory:
    """Computes the sum of each row, while a batch has no more tokens than fit."""

    def __init__(self, fits):
        self.fits = fits
        self.seen = []
        self._lock = threading.Lock()

    def __call__(self, ids, mask, _types):
        tokens = int(np.count_nonzero(mask))
        with self._lock:
            self.seen.append(tokens)
        if tokens > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return (ids * mask).sum(axis=1, keepdims=True)


def test_a_batch_that_does_not_fit_is_computed_in_halves_and_so_are_later_ones(caplog):
    memory = Memory(fits=100)
    compute = card.WithinMemory(memory)
    ids = np.arange(400).reshape(20, 20)
    for _ in range(2):
        assert (compute(ids, np.ones_like(ids), ids)[:, 0] == ids.sum(axis=1)).all()
    assert [tokens for tokens in memory.seen if tokens > 100] == [400, 200], "it is not tried again at once"
    assert compute.most_tokens == 100
    assert caplog.text.count("no memory for a batch") == 2


def test_larger_batches_are_tried_again_after_a_while(monkeypatch):
    monkeypatch.setattr(card, "TRIED_AGAIN", 8)
    memory = Memory(fits=100)
    compute = card.WithinMemory(memory)
    ids = np.ones((20, 20), int)
    compute(ids, ids, ids)
    memory.fits = 1000
    for _ in range(20):
        compute(ids, ids, ids)
    assert memory.seen[-1] == 400


def test_a_text_for_which_there_is_no_memory_fails_and_others_are_scored():
    compute = card.WithinMemory(Memory(fits=10))
    ids = np.ones((3, 20), int)
    mask = np.ones_like(ids)
    with pytest.raises(EngineFailedError, match="no memory for this text"):
        compute(ids, mask, ids)
    assert compute(ids[:1, :5], mask[:1, :5], ids[:1, :5])[0, 0] == 5


def test_a_card_that_is_lost_ends_the_thread_and_another_error_does_not(monkeypatch):
    found = stand_in(monkeypatch)

    def fails(_ids, _mask, _types):
        raise RuntimeError("CUDA error")

    compute = card.WithinMemory(fails)
    ids = np.ones((2, 2), int)
    with pytest.raises(RuntimeError, match="CUDA error"):
        compute(ids, ids, ids)
    found.lost = True
    with pytest.raises(EngineLostError, match="can't be used any more"):
        compute(ids, ids, ids)


@pytest.mark.parametrize("fails", ["moving it", "computing"])
def test_where_the_card_has_no_memory_for_the_original_the_processor_computes_its_scores(tmp_path, monkeypatch, fails):
    stand_in(monkeypatch)
    original = load_source(build_bert(tmp_path / "original"))
    pairs = [("bees", "bees find home"), ("bees", "milk")]
    expected = load_source(tmp_path / "original").reference(pairs)
    moved, move, compute = [], original._move, original._compute

    def moves(device):
        moved.append(device.type)
        if device.type != "cpu" and fails == "moving it":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        move(torch.device("cpu"))

    def computes(*asked):
        if moved[-1] != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compute(*asked)

    monkeypatch.setattr(original, "_move", moves)
    monkeypatch.setattr(original, "_compute", computes)
    with original.on(torch.device("cuda")):
        assert np.allclose(original.reference(pairs), expected, atol=1e-6)
    assert moved == ["cuda", "cpu", "cpu"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_give_nearly_the_same_scores(here, model, precision):
    less = GpuRuntime(model, precision)
    less.start(1)
    asked = rows(here, np.random.default_rng(6), 8, 20)
    ours, theirs = less.open()(*asked), here.open()(*asked)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 0.1 * max(1e-3, np.ptp(theirs))
