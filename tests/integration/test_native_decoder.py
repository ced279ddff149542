"""The native engine's decoders, against torch."""

import json
import threading
from functools import partial

import msgspec
import numpy as np
import pytest
import small_decoders
import torch
from sanitizing import run_clean, sanitized
from scipy.stats import kendalltau
from small_decoders import build_decoder

from webapp.config.settings import Settings
from webapp.domain.errors import EngineFailedError, SetupError
from webapp.engine.base import encode_pair
from webapp.engine.loader import load_engine
from webapp.engine.models.decoder_source import DecoderScore
from webapp.engine.models.original import load_source
from webapp.engine.prepare.architectures import of_decoder
from webapp.engine.prepare.pack import pack, pack_architecture
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.recipes import named_recipe
from webapp.engine.runtimes import native
from webapp.engine.runtimes.native import NativeRuntime

pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY = 200
"""Token ids below this are in every table."""

GEMMA = {"tokenizer": small_decoders.gemma_tokenizer(), "head_dim": 32, "num_key_value_heads": 1}

FAMILIES = {
    "qwen3": partial(build_decoder, name="Qwen/Qwen3-Reranker-0.6B"),
    "qwen2": partial(build_decoder, architecture="Qwen2ForCausalLM", name="mixedbread-ai/mxbai-rerank-base-v2"),
    "gemma": partial(build_decoder, architecture="GemmaForCausalLM", name="BAAI/bge-reranker-v2-gemma", **GEMMA),
    "llama": partial(build_decoder, architecture="LlamaForCausalLM", tokenizer=small_decoders.llama_tokenizer()),
    "llama, bidirectional": small_decoders.build_nemotron,
    "one token": partial(build_decoder, name="ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b"),
}

RECIPES = {"llama": msgspec.structs.replace(named_recipe("qwen3-reranker"), architectures=("LlamaForCausalLM",))}
"""Of models that nothing else tells the words of."""


def batch(lengths, prefix=0, seed=0):
    """Random rows that begin with the same tokens; what is past a row's end must never be looked at."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(5, VOCABULARY, mask.shape)
    ids[:, :prefix] = ids[0, :prefix]
    return ids, mask, np.where(np.arange(width) < prefix, 0, 1) * np.ones_like(ids)


def logits_of(module, ids, mask):
    with torch.inference_mode():
        return module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()


def some_texts(module):
    ids, mask, _ = batch([40] * 8, seed=9)
    return lambda: logits_of(module, ids, mask)


needs_kernels = pytest.mark.skipif(native.library() is None, reason="the native engine is not built here")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> module in torch and packed file, made when first asked for."""
    if native.library() is None:
        pytest.skip("the native engine is not built here")
    home, made = tmp_path_factory.mktemp("decoders"), {}

    def get(family):
        if family not in made:
            source = load_source(FAMILIES[family](home / family.replace(", ", "-")), recipe=RECIPES.get(family))
            path = home / f"{family}.safetensors"
            assert pack(source, path, some_texts(source.module()))
            made[family] = source.module(), path
        return made[family]

    return get


@pytest.fixture
def qwen3(models):
    return NativeRuntime(models("qwen3")[1])


@pytest.mark.parametrize("lengths", [[1], [2, 1], [17, 15, 31, 1, 32], [128, 129, 127], [1023, 3], [60] * 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_torchs_but_for_int8(models, family, lengths):
    """Rows, blocks, groups and attention tiles of every size, full and not."""
    module, path = models(family)
    ids, mask, types = batch(lengths)
    ours, theirs = NativeRuntime(path).open()(ids, mask, types), logits_of(module, ids, mask)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 0.15 * max(1, np.abs(theirs).max())
    if len(lengths) > 30:
        assert np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1] > 0.98


@pytest.mark.parametrize("prefix", [1, 15, 16, 33])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_equal_to_the_bit_whoever_computed_its_prefix(models, family, prefix):
    runtime = NativeRuntime(models(family)[1])
    lengths = [40, prefix + 1, 90, 34, 300]
    ids, mask, types = batch(lengths, prefix)
    whole = runtime.open(0)(ids, mask, types)
    assert np.array_equal(runtime.open()(ids, mask, np.ones_like(types)), whole), "nothing is said to be shared"
    forward = runtime.open()
    assert np.array_equal(forward(ids, mask, types), whole), "the first row computes it for the others"
    assert (forward.kept_bytes > 0) == (family != "llama, bidirectional")
    assert np.array_equal(forward(ids, mask, types), whole), "it was kept"
    for row, length in enumerate(lengths):
        alone = forward(*(np.ascontiguousarray(each[row : row + 1, :length]) for each in (ids, mask, types)))
        assert alone[0, 0] == whole[row, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_equal_to_the_bit_with_every_instruction_set(models, family):
    given = batch([23, 1, 70, 41], seed=4, prefix=9)
    scores = [NativeRuntime(models(family)[1], name).open()(*given) for name in native.instruction_sets()]
    assert all(np.array_equal(each, scores[0]) for each in scores)


def test_a_score_depends_on_nothing_beside_it(qwen3):
    """Not on its neighbours, not on padding, not on prefixes of others, not on what the scratch held before."""
    forward = qwen3.open()
    batches = [batch([40, 7, 23, 90, 3], prefix, seed) for seed, prefix in enumerate([6, 2, 0, 2])]
    right = [qwen3.open(0)(*each) for each in batches]
    rows = [[each[row : row + 1] for each in given] for given in batches for row in range(5)]
    mixed = [np.concatenate(column) for column in zip(*rows[::-1], strict=True)]
    assert np.array_equal(forward(*mixed), np.concatenate(right)[::-1])
    forward(*batch([300] * 9, 100, seed=7))
    assert np.array_equal(forward(*mixed), np.concatenate(right)[::-1])


def test_a_row_that_is_all_prefix_computes_its_last_token(qwen3):
    ids, mask, types = batch([8, 30], 30)
    assert np.array_equal(qwen3.open()(ids, mask, types), qwen3.open(0)(ids, mask, types))


def test_prefixes_that_differ_in_one_token_are_not_exchanged(qwen3):
    ids, mask, types = batch([40, 40, 40], 20)
    ids[1, 0] += 1
    ids[2, 19] += 1
    assert np.array_equal(qwen3.open()(ids, mask, types), qwen3.open(0)(ids, mask, types))


def test_the_prefixes_that_are_kept_take_no_more_than_they_may(qwen3):
    """What was not used for longest goes; what a batch uses stays while it is computed."""
    bytes_a_token = 2 * 2 * 2 * 16 * 4 + 8  # layers, keys and values, heads, dim, float32; and the id
    most = 45 * bytes_a_token
    forward = qwen3.open(most)
    given = [batch([50, 44], 20, seed) for seed in range(4)]
    right = [qwen3.open(0)(*each) for each in given]
    for number in (0, 1, 0, 2, 0, 3, 1, 1):
        assert np.array_equal(forward(*given[number]), right[number])
        assert 0 < forward.kept_bytes <= most
    together = [np.concatenate(column) for column in zip(*given, strict=True)]
    assert np.array_equal(forward(*together), np.concatenate(right)), "more prefixes than there is room for"
    assert forward.kept_bytes == 2 * 20 * bytes_a_token
    longer = batch([60, 50], 46)
    assert np.array_equal(forward(*longer), qwen3.open(0)(*longer)), "one that never has room"
    assert forward.kept_bytes <= most


def test_many_short_prefixes_take_no_more_slots_than_there_are(qwen3):
    forward = qwen3.open()
    rows = [batch([9], 4, seed) for seed in range(100)]
    together = [np.concatenate(column) for column in zip(*rows, strict=True)]
    assert np.array_equal(forward(*together), qwen3.open(0)(*together))


def test_threads_share_the_weights_and_nothing_else(qwen3):
    batches = [batch([60, 33, 8], 5, seed) for seed in range(8)]
    alone = [qwen3.open()(*each) for each in batches]
    wrong = []

    def work():
        forward = qwen3.open()
        for _ in range(10):
            wrong.extend(seed for seed, each in enumerate(batches) if not np.array_equal(forward(*each), alone[seed]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def with_outliers(size):
    """A decoder some of whose channels are many times as large as the others, as in those that people use."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.08,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        words = model.model.embed_tokens.weight
        words[:, [3, 90, 200]] = size * words.std() * (1 + 0.3 * torch.randn(VOCABULARY, 3))
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight *= (1 + 3 * size**2 / 256) ** 0.5  # so that the others count as before
            some = torch.randperm(512)[:8]
            layer.mlp.up_proj.weight[some] *= size
            layer.mlp.down_proj.weight[:, some] /= size
            layer.self_attn.v_proj.weight[5] *= size
            layer.self_attn.o_proj.weight[:, [5, 32 + 5]] /= size
    return DecoderScore(model.model, torch.randn(256), causal=True, mean=False)


@needs_kernels
def test_outlier_channels_cost_little(tmp_path):
    """Random weights have none. Without smoothing int8 would rank this model's texts at random."""
    module, path = with_outliers(40), tmp_path / "model.safetensors"
    pack_architecture(of_decoder(module), path, some_texts(module))
    ids, mask, types = batch([50] * 60, seed=3)
    theirs = logits_of(module, ids, mask)[:, 0]
    ours = NativeRuntime(path).open()(ids, mask, types)[:, 0]
    assert kendalltau(ours, theirs).statistic > 0.9
    assert np.abs(ours - theirs).std() < 0.2 * theirs.std()


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "quick_gelu"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
        {"intermediate_size": 56},
    ],
)
def test_arithmetic_that_the_kernels_do_not_know_is_left_to_other_engines(tmp_path, config):
    source = load_source(build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B", **config))
    assert not pack(source, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given[0].__setitem__((1, 2), 10_000), "a token id is not in the model's vocabulary"),
        (lambda given: given[0].__setitem__((0, 0), -1), "a token id is not in the model's vocabulary"),
        (lambda given: given[1].__setitem__(1, 0), "a row has no tokens"),
    ],
)
def test_a_batch_that_cannot_be_computed_is_an_error_and_leaves_nothing_behind(qwen3, change, message):
    forward, given = qwen3.open(), batch([5, 3], 2)
    right = forward(*given)
    wrong = [each.copy() for each in given]
    change(wrong)
    with pytest.raises(EngineFailedError, match=message):
        forward(*wrong)
    assert np.array_equal(forward(*given), right)


def test_a_row_of_more_tokens_than_the_model_has_positions_is_an_error(qwen3):
    assert np.isfinite(qwen3.open()(*batch([1024]))).all()
    with pytest.raises(EngineFailedError, match="than the model has positions"):
        qwen3.open()(*batch([1025]))


def rewritten(path, target, change):
    """A packed file with a changed table of contents."""
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % 64)
    target.write_bytes(len(encoded).to_bytes(8, "little") + encoded + whole[end:])
    return target


@pytest.mark.parametrize(
    "metadata",
    [
        {"heads": "3"},
        {"heads": "0"},
        {"kv_heads": "3"},
        {"dim": "8"},
        {"group": "8"},
        {"group": "32"},
        {"causal": "2"},
        {"activation": "x"},
        {"activation": "5"},
        {"rms": "0"},
        {"rotaries": "0"},
        {"window": "4"},
        {"layers": "3"},
        {"normalises_heads": "0"},
        {"epsilon": "nan"},
        {"positions": str(2**31)},
        {"positions": str(2**31 - 1)},
        {"pool": None},
        {"pool": "3"},
    ],
)
def test_a_model_that_the_kernels_cannot_compute_is_refused(models, tmp_path, metadata):
    def change(header):
        kept = {**header["__metadata__"], **metadata}
        header["__metadata__"] = {name: value for name, value in kept.items() if value is not None}

    with pytest.raises(SetupError, match="is damaged"):
        NativeRuntime(rewritten(models("qwen3")[1], tmp_path / "model.safetensors", change))


@pytest.mark.parametrize(
    "name", ["words", "words.channels", "head.out", "1.qkv.weights", "1.down.sums", "0.query.gain"]
)
def test_a_tensor_under_another_name_is_refused(models, tmp_path, name):
    def change(header):
        header["other"] = header.pop(name)

    with pytest.raises(SetupError, match="is damaged"):
        NativeRuntime(rewritten(models("qwen3")[1], tmp_path / "model.safetensors", change))


OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}


@needs_kernels
@pytest.mark.parametrize("named", [{"engine": "native", "precision": "int8"}, {}], ids=["by name", "by itself"])
@pytest.mark.parametrize("family", ["qwen3", "llama, bidirectional"])
def test_a_decoder_is_prepared_and_opened(tmp_path, family, named):
    """Documents of two queries, in one batch, score as in torch."""
    model = FAMILIES[family](tmp_path / "model")
    settings = Settings(model=str(model), state_dir=tmp_path / "state", **named, **OPEN_GATE)
    assert prepare(settings, lambda _: None).engine == "native"
    session = load_engine(settings).open_session()
    pairs = [(query, document) for query in ("bees", "how do bees find home") for document in ("", "by the sun", "no")]
    encoded = [encode_pair(session, query, document) for query, document in pairs]
    ours = session.score([(query, ids) for query, ids, _ in encoded], max(length for *_, length in encoded))
    theirs = load_source(model, model=str(model)).reference(pairs)
    assert np.abs(ours - theirs).max() < 0.15 * max(1, np.abs(theirs).max())
    alone = [session.score([(query, ids)], length)[0] for query, ids, length in encoded]
    assert alone == list(ours)


@pytest.mark.slow
def test_the_kernels_touch_no_memory_that_is_not_theirs(models):
    built = sanitized()
    script = f"""
import itertools, sys
from pathlib import Path
import numpy as np
from webapp.engine.runtimes import native
native.library = lambda: Path({str(built)!r})
rng = np.random.default_rng(0)
for path, name in itertools.product(sys.argv[1:], native.instruction_sets()):
    forward = native.NativeRuntime(Path(path), name).open(60_000)
    for lengths in ([1], [3, 2, 1], [255, 1, 1], [300, 5], [4] * 70, [17, 90, 64], [1024, 1], [9, 9, 9]):
        if name == native.PORTABLE and sum(lengths) > 400:
            continue  # slow
        for prefix in (0, 1, 8, 20):
            mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
            ids = rng.integers(5, 200, mask.shape)
            ids[:, :prefix] = ids[0, :prefix]
            types = np.where(np.arange(max(lengths)) < prefix, 0, 1) * np.ones_like(ids)
            assert np.isfinite(forward(ids, mask, types)).all()
print("clean")
"""
    run_clean(script, *(str(models(family)[1]) for family in FAMILIES))
