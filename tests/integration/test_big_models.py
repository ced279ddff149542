"""Prepare does no more than it must: what costs a big model hours or gigabytes is bounded for every model."""

import errno
import itertools
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_decoders
import small_models

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import TOKENIZER, artifact_dir
from webapp.engine.loader import ModelEngine
from webapp.engine.models.layout import read_layout
from webapp.engine.models.original import load_source
from webapp.engine.prepare import build, check_texts, framing, gate, pipeline, room
from webapp.engine.prepare.calibration import DEFAULT_FILE, read_examples
from webapp.engine.prepare.pack import write_tensors
from webapp.engine.prepare.progress import Stages
from webapp.engine.prepare.resolve import Source
from webapp.engine.runtimes import Candidate
from webapp.engine.runtimes.torch import LoadedRuntime, TorchForward

pytestmark = pytest.mark.filterwarnings("ignore")

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}
INT8, BF16, FP32, IN_TORCH = (
    Candidate("openvino", "int8"),
    Candidate("openvino", "bf16"),
    Candidate("openvino", "fp32"),
    Candidate("torch", "fp32"),
)


@pytest.fixture(scope="module")
def long_reader(tmp_path_factory):
    """A cross-encoder that reads 4,000 tokens."""
    return small_models.build_bert(tmp_path_factory.mktemp("models") / "long", max_length=4000)


def in_torch(directory, staging, **template):
    """A model's own computation behind our template, which may be another than the tokenizer's."""
    original = load_source(directory)
    staging.mkdir(exist_ok=True)
    builder = build.Builder(
        original, Settings(), Source(directory, "m", "1"), read_examples(DEFAULT_FILE), staging, Stages(5, print)
    )
    described = builder._describe()
    described = msgspec.structs.replace(described, template=msgspec.structs.replace(described.template, **template))
    return ModelEngine(described, LoadedRuntime(original), staging / TOKENIZER), original


def test_texts_that_are_cut_far_out_are_compared_though_nothing_of_that_length_is_scored(
    long_reader, tmp_path, monkeypatch
):
    lengths, honest = [], TorchForward.__call__

    def call(self, input_ids, mask, types):
        lengths.append(input_ids.shape[1])
        return honest(self, input_ids, mask, types)

    monkeypatch.setattr(TorchForward, "__call__", call)
    framing.check_framing(*in_torch(long_reader, tmp_path / "right"))
    assert 0 < max(lengths) <= framing.LONGEST_FRAMED_TOKENS
    with pytest.raises(
        SetupError, match="reads other tokens than the original; the likely cause: long or blank texts are cut"
    ):
        framing.check_framing(*in_torch(long_reader, tmp_path / "wrong", truncation_side="left"))


def test_a_model_of_any_length_is_asked_for_scores_of_a_bounded_one(long_reader):
    original = load_source(long_reader)
    lengths = [len(ids) for pair in check_texts.check_pairs(original) for ids in original.tokens(*pair)]
    assert check_texts.LONGEST_SCORED_TOKENS < max(lengths) < check_texts.LONGEST_SCORED_TOKENS + 300
    assert all(original.tokens(*pair) == [original.tokens(*pair)[0][:4000]] for pair in check_texts.cut_pairs(original))
    assert all(len(original.tokens(*pair)[0]) == 4000 for pair in check_texts.cut_pairs(original))


@pytest.mark.parametrize(
    "make",
    [
        small_models.build_xlm_roberta,
        small_models.build_bi_encoder,
        small_decoders.build_ettin,
        lambda directory: small_decoders.build_decoder(directory, name="Qwen/Qwen3-Reranker-0.6B"),
    ],
    ids=["cross-encoder", "bi-encoder", "ettin", "decoder"],
)
def test_the_tokens_that_an_original_reads_are_known_without_computing(tmp_path, make):
    engine, original = in_torch(make(tmp_path / "model"), tmp_path / "staging")
    for pair in [*check_texts.cut_pairs(original), *check_texts.check_pairs(original)]:
        assert framing._tokens(engine, *pair, "") == original.tokens(*pair)


def test_rows_of_unlike_lengths_share_a_batch_but_only_one_long_one():
    lengths = [30, 500, 20, 512, 40, 25, 510, 35]
    batches = framing._unlike(lengths)
    assert sum(len(batch) * max(lengths[place] for place in batch) for batch in batches) < 2 * 512 + 8 * 64
    assert [lengths[place] for place in batches[-1]] == [20, 512]
    assert any(len({lengths[place] for place in batch}) > 2 for batch in batches)


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_come_back_in_the_pairs_order_whatever_is_batched(xlm_roberta, tmp_path, threads):
    engine, original = in_torch(xlm_roberta, tmp_path / "staging")
    pairs = [("how do bees", text) for text in small_models.texts(30)]
    counted = []
    ours = gate.engine_logits(engine, pairs, threads, counted.extend)
    assert np.allclose(ours, original.reference(pairs), atol=1e-4)
    assert sorted(counted) == sorted(pairs)


def test_an_instruction_that_is_the_default_costs_nothing_more(tmp_path, monkeypatch):
    computed = []
    original = load_source(small_decoders.build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B"))
    monkeypatch.setattr(
        type(original), "_compute", lambda _self, pairs, _: computed.extend(pairs) or [1.0] * len(pairs)
    )
    for instruction in ("", original.recipe.instruction, "another", "another"):
        original.reference([("q", "d")], instruction)
    assert len(computed) == 2


def test_the_share_that_is_done_is_told_in_each_long_stage(bert, tmp_path, monkeypatch):
    told = {}

    class Listening(Stages):
        def stage(self, number, what):
            outer = super().stage(number, what)

            class Both:
                def __enter__(self):
                    report_share = outer.__enter__()
                    return lambda share: (told.setdefault(what, []).append(share), report_share(share))

                def __exit__(self, *error):
                    return outer.__exit__(*error)

            return Both()

    monkeypatch.setattr(pipeline, "Stages", Listening)
    settings = Settings(model=str(bert), state_dir=tmp_path, engine="openvino", precision="int8", **OPEN_GATE)
    pipeline.prepare(settings, lambda _: None)
    assert [what.split()[0] for what in told] == ["comparing", "converting", "comparing", "measuring"]
    for shares in told.values():
        assert all(early <= late for early, late in itertools.pairwise(shares))
        assert len(shares) >= 9
        assert shares[-1] == pytest.approx(1, abs=0.35)


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_loaded(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.engine.prepare.room.free_bytes", lambda **_: 1000)
    monkeypatch.setattr(build, "load_layout", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(SetupError, match="GB are free; prepare it where there are more"):
        pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path), lambda _: None)


def test_a_decoder_s_int8_weights_hold_the_vocabulary_once(tmp_path):
    import openvino as ov

    model = small_decoders.build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B")
    settings = Settings(model=str(model), state_dir=tmp_path, engine="openvino", precision="int8", **OPEN_GATE)
    manifest = pipeline.prepare(settings, lambda _: None)
    constants = [
        node
        for node in ov.Core().read_model(artifact_dir(settings) / "model.xml").get_ops()
        if node.get_type_name() == "Constant" and manifest.tables.vocabulary in tuple(node.shape)
    ]
    tables = [node for node in constants if len(node.shape) == 2 and 1 not in tuple(node.shape)]
    assert [node.get_element_type().to_string() for node in tables] == ["i8"]
    # Two streams gave scores far off as long as the head's only row was int8, too.
    assert manifest.fidelity["max_score_error"] < 0.1


@pytest.mark.parametrize(
    ("options", "tried", "advice"),
    [
        ({"precision": "int8"}, [INT8], "set RERANK_PRECISION to auto"),
        ({"engine": "openvino", "precision": "bf16"}, [BF16], "set RERANK_PRECISION to auto"),
        ({"engine": "native"}, [Candidate("native", "int8")], "set RERANK_ENGINE to auto"),
        ({}, [INT8, BF16, FP32], "set RERANK_ENGINE to torch"),
        ({"engine": "openvino", "precision": "fp32"}, [FP32], "set RERANK_ENGINE to torch"),
        ({"engine": "torch"}, [IN_TORCH], "name another RERANK_MODEL"),
        ({"engine": "torch", "precision": "fp32"}, [IN_TORCH], "name another RERANK_MODEL"),
    ],
)
def test_only_what_was_not_tried_is_advised(options, tried, advice):
    assert build.advice(Settings(**options), tried) == advice


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of .* is full; make room there"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "can't be prepared: /x: Permission denied"),
        (MemoryError(), "not enough memory; prepare it on a machine with more"),
    ],
)
def test_what_a_machine_lacks_is_named(bert, tmp_path, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr("webapp.engine.prepare.export.export_openvino", fail)
    with pytest.raises(SetupError, match=message):
        pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path, engine="openvino"), lambda _: None)


def test_a_disk_that_is_full_is_named_when_the_native_engine_s_file_is_written():
    with pytest.raises(OSError, match="No space left") as raised:
        write_tensors(Path("/dev/full"), {"words": np.zeros((1000, 1000), np.float32)}, {})
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("precision", "copies"), [("fp32", 1), ("int8", 1.25)])
def test_what_cannot_fit_on_the_disk_is_not_converted(bert, tmp_path, monkeypatch, precision, copies):
    needed = int(copies * room.weight_bytes(read_layout(bert, "m", None)))
    settings = Settings(model=str(bert), state_dir=tmp_path, engine="openvino", precision=precision, **OPEN_GATE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(SetupError, match=r"0.00 GB of its disk free, and .* are needed to convert .*; make room there"):
        pipeline.prepare(settings, lambda _: None)
    assert [path.name for path in settings.models_dir.iterdir()] == [".lock"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    pipeline.prepare(settings, lambda _: None)
