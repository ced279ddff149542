"""The native engine's C kernels, against torch."""

import platform
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_decoders
import small_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_kit import inputs, needs_kernels, torch_logits
from sanitizing import run_clean, sanitized
from small_encoders import build_encoder, build_modernbert, build_sentence_transformer

from webapp.domain.errors import SetupError
from webapp.engine.models.original import load_source
from webapp.engine.prepare.architecture import Matrix
from webapp.engine.prepare.pack import LARGEST_LANE_SUM, pack, pack_matrix, pack_words, write_tensors
from webapp.engine.prepare.resolve import _embedded
from webapp.engine.runtimes import native
from webapp.engine.runtimes.native import NativeRuntime
from webapp.engine.runtimes.packed import read_tensors

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_kernels_are_built_wherever_they_can_be():
    """An optional extension that fails to compile is otherwise silent."""
    flags = Path("/proc/cpuinfo").read_text()
    if not (shutil.which("gcc") and "avx2" in flags and "fma" in flags):
        pytest.skip("no compiler, or no AVX2")
    assert native.library() is not None, "run: pip install -e ."


BIASES = dict.fromkeys(("norm_bias", "mlp_bias", "attention_bias", "classifier_bias"), True)

FAMILIES = {
    "bert": small_models.build_bert,
    "xlm-roberta": small_models.build_xlm_roberta,
    "electra": partial(build_encoder, architecture="ElectraForSequenceClassification", embedding_size=16),
    "distilbert": partial(build_encoder, architecture="DistilBertForSequenceClassification"),
    "modernbert": build_modernbert,
    "modernbert, mean, biases": partial(build_modernbert, classifier_pooling="mean", **BIASES),
    "modernbert, all global": partial(build_modernbert, global_attn_every_n_layers=1),
    "ettin": small_decoders.build_ettin,
    "vectors, mean": build_sentence_transformer,
    "vectors, first": partial(build_sentence_transformer, pooling="cls"),
    "tanh for erf": partial(build_encoder, architecture="BertForSequenceClassification", hidden_act="gelu_new"),
    "relu": partial(build_encoder, architecture="BertForSequenceClassification", hidden_act="relu"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def packed(request, tmp_path_factory):
    """An encoder in torch, and its file."""
    home = tmp_path_factory.mktemp("packed")
    source = load_source(FAMILIES[request.param](home / "model"))
    assert pack(source, home / "model.safetensors", lambda: torch_logits(source, *inputs([60] * 4, 60, seed=9)))
    return source, home / "model.safetensors"


@needs_kernels
@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [3], [4, 1], [16], [17, 15, 31, 1, 2], [64] * 5, [255, 3], [256], [257], [500, 499, 2], [7] * 60],
)
def test_logits_are_torchs_but_for_int8(packed, lengths):
    """Rows, blocks, groups and attention tiles of every size, full and not."""
    source, path = packed
    if max(lengths) > source.max_length_tokens:
        pytest.skip("longer than the model")
    given = inputs(lengths, max(lengths))
    ours, theirs = NativeRuntime(path).open()(*given), torch_logits(source, *given)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 0.15 * max(1, np.abs(theirs).max())
    if len(lengths) > 2:
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98


@needs_kernels
def test_a_pairs_score_depends_on_nothing_beside_it(packed):
    """Not on its neighbours in the batch, not on padding, not on what the scratch held before."""
    _, path = packed
    forward = NativeRuntime(path).open()
    ids, mask, types = inputs([40, 7, 23, 90], 90)
    together = forward(ids, mask, types)
    forward(*inputs([90] * 30, 90, seed=5))
    for row, length in enumerate([40, 7, 23, 90]):
        alone = forward(*(np.ascontiguousarray(each[row : row + 1, :length]) for each in (ids, mask, types)))
        assert np.array_equal(alone[0], together[row])


@needs_kernels
def test_scores_are_equal_to_the_bit_with_every_instruction_set(packed):
    """A score does not depend on the processor."""
    given = inputs([17, 15, 31, 1, 2, 90], 90)
    scores = [NativeRuntime(packed[1], name).open()(*given) for name in native.instruction_sets()]
    assert native.instruction_sets()[-1] == native.PORTABLE
    assert all(np.array_equal(each, scores[0]) for each in scores)


SERVE = """
import sys
sys.modules["torch"] = None
import numpy as np
from pathlib import Path
from webapp.engine.runtimes.native import NativeRuntime, instruction_sets
ids = np.arange(5, 45).reshape(2, 20)
for name in instruction_sets():
    print(NativeRuntime(Path(sys.argv[1]), name).open()(ids, np.ones_like(ids), np.zeros_like(ids)).tobytes().hex())
"""


@needs_kernels
def test_one_file_serves_on_every_processor_without_torch_and_without_being_written_to(packed, tmp_path):
    file = tmp_path / "model.safetensors"
    shutil.copy(packed[1], file)
    file.chmod(0o400)
    before = file.stat().st_mtime_ns, file.read_bytes()
    command = [sys.executable, "-c", SERVE, file]
    scores = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert len(scores) == len(native.instruction_sets())
    assert len(set(scores)) == 1
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@needs_kernels
@pytest.mark.parametrize("name", ["sse9", "neon" if platform.machine() == "x86_64" else "avx2"])
def test_an_instruction_set_that_is_not_here_is_refused(packed, name):
    with pytest.raises(SetupError, match="no such instruction set, or this processor lacks it"):
        NativeRuntime(packed[1], name)


@needs_kernels
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(0, 2**31), st.data())
def test_a_score_is_equal_to_the_bit_whatever_else_is_in_the_batch(packed, lengths, seed, data):
    forward = NativeRuntime(packed[1]).open()
    ids, mask, types = inputs(lengths, max(lengths), seed)
    together = forward(ids, mask, types)
    chosen = data.draw(st.permutations(range(len(lengths))))[: data.draw(st.integers(1, len(lengths)))]
    width = max(lengths[row] for row in chosen)
    assert np.array_equal(forward(*(each[chosen, :width] for each in (ids, mask, types))), together[chosen])


@needs_kernels
def test_large_weights_are_worked_on_in_larger_groups(tmp_path):
    """With the same scores, alone and in company."""
    shape = {"hidden_size": 64, "intermediate_size": 49_152, "num_hidden_layers": 1, "initializer_range": 0.05}
    source = load_source(build_encoder(tmp_path / "model", "BertForSequenceClassification", **shape))
    assert pack(source, tmp_path / "packed")
    forward = NativeRuntime(tmp_path / "packed").open()
    lengths = [300, 130, 119, 120, 121, 1, 400]
    ids, mask, types = inputs(lengths, 400)
    together, theirs = forward(ids, mask, types), torch_logits(source, ids, mask, types)
    assert np.abs(together - theirs).max() < 0.15 * max(1, np.abs(theirs).max())
    for row, length in enumerate(lengths):
        assert np.array_equal(forward(*(each[row : row + 1, :length] for each in (ids, mask, types)))[0], together[row])


@needs_kernels
def test_token_types_count(bert, tmp_path):
    source, path = load_source(bert), tmp_path / "model.safetensors"
    pack(source, path)
    ids, mask, types = inputs([30, 30], 30)
    types[:, 12:] = 1
    forward = NativeRuntime(path).open()
    ours, theirs = forward(ids, mask, types), torch_logits(source, ids, mask, types)
    assert np.abs(ours - theirs).max() < np.abs(forward(ids, mask, np.zeros_like(types)) - theirs).max()


@needs_kernels
@pytest.mark.slow
def test_mean_vectors_are_the_embedding_models_own(tmp_path):
    source, path = load_source(_embedded("").directory), tmp_path / "model.safetensors"
    assert pack(source, path)
    given = inputs([5, 60, 256, 33], 256, vocabulary=20_000)
    ours, theirs = NativeRuntime(path).open()(*given), torch_logits(source, *given)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    assert (np.einsum("ij,ij->i", ours, theirs) > 0.99).all()


@needs_kernels
def test_threads_share_the_weights_and_nothing_else(packed):
    _, path = packed
    runtime = NativeRuntime(path)
    batches = [inputs([60, 33, 8], 60, seed=seed) for seed in range(8)]
    alone = [runtime.open()(*batch) for batch in batches]
    wrong = []

    def work():
        forward = runtime.open()
        for _ in range(20):
            wrong.extend(seed for seed, batch in enumerate(batches) if not np.array_equal(forward(*batch), alone[seed]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "outliers", "ones", "zeros", "one sign"]))
def test_no_input_can_overflow_a_lane(seed, kind):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((16, 64)).astype(np.float32)
    if kind == "outliers":
        weight[rng.integers(16, size=5), rng.integers(64, size=5)] *= 100
    elif kind == "ones":
        weight[:] = 1
    elif kind == "zeros":
        weight[:] = 0
    elif kind == "one sign":
        weight = -np.abs(weight)
    packed = pack_matrix(Matrix(weight, np.zeros(16, np.float32)), 64)
    # [panel, inputs / 8, two loads, outputs, 4 bytes] -> the two loads' byte pairs meet in one lane
    lanes = packed["weights"].reshape(1, 8, 2, 16, 2, 2).astype(int)
    highest = 255 * np.maximum(lanes, 0).sum(axis=(2, 5)).max()
    lowest = 255 * np.minimum(lanes, 0).sum(axis=(2, 5)).min()
    assert lowest >= -(2**15)
    assert highest <= 255 * LARGEST_LANE_SUM < 2**15
    values = packed["weights"].reshape(16, 16, 4).transpose(1, 0, 2).reshape(16, 64)
    assert np.abs(values * packed["scales"].reshape(16, 1) - weight).max() <= packed["scales"].max() * 0.51
    assert np.array_equal(values.sum(axis=1), packed["sums"].reshape(16))


def test_a_table_of_words_keeps_all_of_a_word_in_int8():
    """Also beside a channel that is many times as large as the others, and a row of zeros, as padding is."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((20_000, 48)).astype(np.float32)
    table[:, 7] *= 200
    table[3] = 0
    table[:, 9] = 0
    packed = pack_words(torch.nn.Embedding.from_pretrained(torch.from_numpy(table)))
    found = packed["words"] * (packed["words.scales"][:, None] * packed["words.channels"])
    error = np.abs(found - table).max(axis=0) / np.maximum(table.std(axis=0), 1)
    assert error.max() < 0.03
    assert not found[3].any()
    assert not found[:, 9].any()


def test_a_word_with_one_large_number_keeps_its_others():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((20_000, 48)).astype(np.float32)
    table[:, [7, 9]] *= 0.001
    table[5, 7] = 2
    table[6, 9] = 20
    packed = pack_words(torch.nn.Embedding.from_pretrained(torch.from_numpy(table)))
    found = packed["words"] * (packed["words.scales"][:, None] * packed["words.channels"])
    assert np.abs(found - table)[5].std() < 0.08
    assert np.abs(found - table)[6].std() < 0.3
    assert np.abs(found - table).std() < 0.02


def test_packed_files_are_safetensors_aligned_for_vectors(tmp_path):
    from safetensors.numpy import load_file

    tensors = {"a": np.arange(5, dtype=np.float32), "b": np.ones((3, 7), np.int8), "c": np.zeros(16, np.float32)}
    write_tensors(tmp_path / "m.safetensors", tensors, {"heads": "2"})
    theirs = load_file(tmp_path / "m.safetensors")
    ours, metadata = read_tensors(tmp_path / "m.safetensors")
    assert metadata == {"heads": "2"}
    for name, tensor in tensors.items():
        assert np.array_equal(theirs[name], tensor)
        assert np.array_equal(ours[name], tensor)
        assert ours[name].ctypes.data % 64 == 0


def test_without_kernels_an_artifact_that_needs_them_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    with pytest.raises(SetupError, match="RERANK_ENGINE=openvino"):
        NativeRuntime(tmp_path)


@needs_kernels
@pytest.mark.slow
def test_the_kernels_touch_no_memory_that_is_not_theirs(packed):
    library = sanitized()
    script = f"""
import itertools
from pathlib import Path
import numpy as np
from webapp.engine.runtimes import native
SHAPES = [1], [3, 2, 1], [255, 1, 1], [256], [300, 5], [4] * 70, [17, 90, 64]
native.library = lambda: Path({str(library)!r})
rng = np.random.default_rng(0)
for name, lengths in itertools.product(native.instruction_sets(), SHAPES):
    if max(lengths) <= {packed[0].max_length_tokens}:
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        forward = native.NativeRuntime(Path({str(packed[1])!r}), name).open()
        assert np.isfinite(forward(rng.integers(5, 170, mask.shape), mask, np.zeros_like(mask))).all()
print("clean")
"""
    run_clean(script)
