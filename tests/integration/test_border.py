"""What comes to the native kernels, and what an artifact says of itself, is checked: an error, no foreign memory."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_models
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from manifest_kit import manifest
from running import PATIENCE_S
from scheduling_kit import Rig
from tokenizers import Tokenizer

from webapp.config.settings import Settings
from webapp.domain.errors import EngineFailedError, SetupError
from webapp.engine.artifact import MANIFEST, PACKED_MODEL, TOKENIZER, Template, artifact_dir, read_manifest, sha256_of
from webapp.engine.loader import ModelEngine, open_engine
from webapp.engine.models.original import load_source
from webapp.engine.prepare.build import load_original
from webapp.engine.prepare.export import export_tokenizer
from webapp.engine.prepare.pack import pack
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.prepare.resolve import resolve
from webapp.engine.prepare.write import NotForThisModelError, pack_native
from webapp.engine.runtimes import native
from webapp.engine.runtimes import packed as packed_file

pytestmark = pytest.mark.filterwarnings("ignore")

needs_kernels = pytest.mark.skipif(native.library() is None, reason="the native engine is not built here")

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}

VOCABULARY, POSITIONS, TYPES = 400, 64, 2
"""Sizes of the tables of the model below."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed BERT of few positions."""
    directory = tmp_path_factory.mktemp("packed")
    source = load_source(small_models.build_bert(directory / "model", max_length=POSITIONS))
    assert pack(source, directory / PACKED_MODEL)
    return directory / PACKED_MODEL


@pytest.fixture(scope="module")
def forward(packed):
    return native.NativeRuntime(packed).open()


def batch(lengths=(5, 3), width=5):
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return np.full(mask.shape, 7, np.int64), mask, np.zeros_like(mask)


@needs_kernels
@pytest.mark.parametrize("id_", [VOCABULARY, VOCABULARY + 1, 2**31, 2**62, -1, -(2**63)])
@pytest.mark.parametrize("at", [(0, 0), (0, 4), (1, 2)])
def test_an_id_outside_the_vocabulary_is_an_error(forward, id_, at):
    ids, mask, types = batch()
    right = forward(ids, mask, types)
    ids[at] = id_
    with pytest.raises(EngineFailedError, match="a token id is not in the model's vocabulary"):
        forward(ids, mask, types)
    assert np.array_equal(forward(*batch()), right), "a batch that was refused leaves nothing behind"


@needs_kernels
@pytest.mark.parametrize("type_", [TYPES, 2**40, -1])
def test_a_type_outside_the_table_is_an_error(forward, type_):
    ids, mask, types = batch()
    types[1, 2] = type_
    with pytest.raises(EngineFailedError, match="a token type is not in the model's table"):
        forward(ids, mask, types)


@needs_kernels
@pytest.mark.parametrize("lengths", [(POSITIONS + 1, 3), (3, 80), (0, 3), (0,)])
def test_a_row_without_tokens_or_with_more_than_there_are_positions_is_an_error(forward, lengths):
    assert np.isfinite(forward(*batch((POSITIONS, 1), 80))).all()
    with pytest.raises(EngineFailedError, match="a row has no tokens, or more than the model has positions"):
        forward(*batch(lengths, 80))


@needs_kernels
@pytest.mark.parametrize(("rows", "mask_rows", "types_width"), [(2, 1, 5), (2, 2, 2), (0, 0, 5)])
def test_buffers_of_another_size_than_the_ids_are_an_error(forward, rows, mask_rows, types_width):
    ids, mask, types = batch()
    with pytest.raises(EngineFailedError, match="not as large as its rows and length say"):
        forward(ids[:rows], mask[:mask_rows], types[:rows, :types_width])


@needs_kernels
def test_what_lies_past_a_rows_end_is_not_read(forward):
    ids, mask, types = batch()
    right = forward(ids, mask, types)
    ids[1, 3:] = types[1, 3:] = 2**62
    assert np.array_equal(forward(ids, mask, types), right)


@needs_kernels
def test_arrays_in_another_order_or_of_another_type_are_scored_alike(forward):
    ids, mask, types = batch((6, 4), 6)
    ids += np.arange(6)
    right = forward(ids, mask, types)
    assert np.array_equal(forward(np.asfortranarray(ids), mask, np.asfortranarray(types)), right)
    assert np.array_equal(forward(ids.astype(np.int32), mask, types), right)


@needs_kernels
def test_a_text_that_the_kernels_refuse_fails_its_request_and_no_other(packed, forward, tmp_path):
    """Opened past the checks, as if they had a hole."""
    tokenizer = Tokenizer.from_file(str(packed.parent / "model" / "tokenizer.json"))
    tokenizer.add_tokens([f"extra{number}" for number in range(VOCABULARY)])
    tokenizer.save(str(tmp_path / TOKENIZER))
    template = Template(prefix=[2], middle=[3], suffix=[3], document_type=1, pad_id=0, max_length_tokens=POSITIONS)
    with Rig(ModelEngine(manifest(template=template), forward._runtime, tmp_path / TOKENIZER)) as rig:
        for document, fails in (("bees", False), (f"extra{VOCABULARY - 1}", True), ("milk", False)):
            ticket, waiter = rig.submit("bees", [document])
            assert waiter.wait(PATIENCE_S)
            assert isinstance(ticket.error, EngineFailedError) == fails
            if fails:
                assert "a token id is not in the model's vocabulary" in str(ticket.error.__cause__)


def test_every_status_of_the_border_is_said_in_words():
    header = (Path(native.__file__).parent.parent / "native" / "border.h").read_text()
    statuses = re.findall(r"^    STATUS_\w+,", header, re.MULTILINE)
    assert [*native.STATUS_MESSAGES] == list(range(1, len(statuses)))
    assert f"#define BORDER {packed_file.ABI_VERSION} " in header


@needs_kernels
def test_kernels_that_were_built_from_other_sources_are_refused(packed, monkeypatch):
    monkeypatch.setattr(packed_file, "ABI_VERSION", packed_file.ABI_VERSION + 1)
    with pytest.raises(SetupError, match="install again"):
        native.NativeRuntime(packed)


def opened_or_refused(path):
    """Whether a file can be opened; then it must be safe to compute with, too."""
    try:
        runtime = native.NativeRuntime(path)
    except SetupError as error:
        said = str(error)
    else:
        with contextlib.suppress(EngineFailedError):  # a table may have become shorter
            runtime.open()(*batch((min(5, runtime.tables.positions), 1), 5))
        return True
    assert re.fullmatch(r"\S+ is damaged \(.*\); remove \S+ and prepare again", said), said
    return False


@needs_kernels
@given(st.data())
def test_no_byte_of_the_table_of_contents_makes_the_kernels_read_outside_the_file(packed, tmp_path_factory, data):
    whole = bytearray(packed.read_bytes())
    contents = 8 + int.from_bytes(whole[:8], "little")
    for at in data.draw(st.lists(st.integers(0, contents - 1), min_size=1, max_size=3)):
        whole[at] = data.draw(st.integers(0, 255) | st.sampled_from(b"0123456789"))
    opened_or_refused(written(tmp_path_factory, whole))


@needs_kernels
@given(length=st.integers(0, 200_000))
@example(length=0)
@example(length=7)
@example(length=8)
def test_a_truncated_file_is_refused(packed, tmp_path_factory, length):
    whole = packed.read_bytes()
    assert not opened_or_refused(written(tmp_path_factory, whole[: min(length, len(whole) - 1)]))


@needs_kernels
def test_a_file_with_more_behind_its_tensors_is_refused(packed, tmp_path_factory):
    assert not opened_or_refused(written(tmp_path_factory, packed.read_bytes() + b"\0" * 64))


@needs_kernels
@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**40])
def test_a_table_of_contents_longer_than_its_file_is_refused(packed, tmp_path_factory, size):
    assert not opened_or_refused(written(tmp_path_factory, size.to_bytes(8, "little") + packed.read_bytes()[8:]))


def written(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / f"broken-{PACKED_MODEL}"
    path.unlink(missing_ok=True)  # one that is mapped must not change
    path.write_bytes(content)
    return path


WRONG_ENTRIES = {
    "another shape of the same size": lambda entry: entry["shape"].reverse(),
    "a huge dimension": lambda entry: entry.update(shape=[2**62, 4]),
    "no elements and a huge dimension": lambda entry: entry.update(shape=[0, 2**62, 2**62]),
    "a negative dimension": lambda entry: entry.update(shape=[-1, -1]),
    "a start before the file": lambda entry: entry.update(data_offsets=[-64, 0]),
    "an end past the file": lambda entry: entry.update(data_offsets=[entry["data_offsets"][0], 2**40]),
    "an end before its start": lambda entry: entry["data_offsets"].reverse(),
    "another tensor's place": lambda entry: entry.update(data_offsets=[0, entry["data_offsets"][1]]),
    "another type": lambda entry: entry.update(dtype="I8" if entry["dtype"] == "F32" else "F32"),
    "an unknown type": lambda entry: entry.update(dtype="F64"),
    "no shape": lambda entry: entry.pop("shape"),
}


@needs_kernels
@pytest.mark.parametrize("tensor", ["types", "1.up.weights"])
@pytest.mark.parametrize("wrong", WRONG_ENTRIES)
def test_a_tensor_that_is_not_where_and_what_it_should_be_is_refused(packed, tmp_path_factory, tensor, wrong):
    contents = with_header(packed, lambda header: WRONG_ENTRIES[wrong](header[tensor]))
    assert not opened_or_refused(written(tmp_path_factory, contents))


@needs_kernels
@pytest.mark.parametrize(
    "metadata",
    [
        *(
            "heads=0",
            "heads=-2",
            "heads=3",
            "heads=4",
            f"heads={2**32 + 2}",
            f"layers={2**31 - 1}",
            "group=0",
            "types=-1",
        ),
        *("pool=3", "activation=6", "head_activation=-1", "head_norm=1", "norms_first=1", "window=8", "global_every=0"),
        *("epsilon=nan", "embedded=48", ""),
    ],
)
def test_a_model_that_the_kernels_cannot_compute_is_refused(packed, tmp_path_factory, metadata):
    def change(header):
        name, _, value = metadata.partition("=")
        header["__metadata__"] = {**header["__metadata__"], name: value} if metadata else {}

    assert not opened_or_refused(written(tmp_path_factory, with_header(packed, change)))


@needs_kernels
@pytest.mark.parametrize("name", ["words", "1.qkv.weights", "1.up.bias", "head.out", "head.dense"])
def test_a_tensor_under_another_name_is_refused(packed, tmp_path_factory, name):
    def change(header):
        header["other"] = header.pop(name)

    assert not opened_or_refused(written(tmp_path_factory, with_header(packed, change)))


def with_header(packed, change):
    """The file with a changed table of contents."""
    whole = packed.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % 64)
    return len(encoded).to_bytes(8, "little") + encoded + whole[end:]


@needs_kernels
def test_tensors_that_are_not_aligned_are_refused(packed, tmp_path_factory):
    whole = packed.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    later = (end - 7).to_bytes(8, "little") + whole[8:end] + b" " + whole[end:]
    assert not opened_or_refused(written(tmp_path_factory, later))


def with_more_words(directory, count):
    """Let a tokenizer know words past the end of its model's table."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens([f"extra{number}" for number in range(count - tokenizer.get_vocab_size())])
    tokenizer.save(str(directory / "tokenizer.json"))


@pytest.mark.parametrize("engine", ["auto", "native", "openvino", "torch"])
def test_a_model_whose_tokenizer_knows_more_words_than_its_table_is_not_prepared(bert, tmp_path, engine):
    model = shutil.copytree(bert, tmp_path / "model")
    with_more_words(model, VOCABULARY + 1)
    settings = Settings(model=str(model), state_dir=tmp_path / "state", engine=engine, **OPEN_GATE)
    if engine == "native" and native.library() is None:
        pytest.skip("the native engine is not built here")
    with pytest.raises(SetupError, match="the tokenizer knows 401 words, the model's table has 400"):
        prepare(settings, lambda _: None)
    assert not artifact_dir(settings).exists()


@pytest.fixture(scope="module", params=["native", "openvino", "torch"])
def artifact(request, bert, tmp_path_factory):
    if request.param == "openvino":
        return artifact_dir(request.getfixturevalue("bert_settings"))
    if request.param == "native" and native.library() is None:
        pytest.skip("the native engine is not built here")
    precision = "int8" if request.param == "native" else "fp32"
    settings = Settings(
        model=str(bert),
        state_dir=tmp_path_factory.mktemp("state"),
        engine=request.param,
        precision=precision,
        **OPEN_GATE,
    )
    prepare(settings, lambda _: None)
    return artifact_dir(settings)


@pytest.fixture
def copied(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "artifact")


def test_an_artifact_whose_tokenizer_knows_more_words_than_its_table_is_not_opened(copied):
    manifest = read_manifest(copied)
    with_more_words(copied, VOCABULARY + 1)
    with pytest.raises(SetupError, match="does not match its manifest"):
        read_manifest(copied)
    files = {**manifest.files, TOKENIZER: sha256_of(copied / TOKENIZER)}
    with pytest.raises(SetupError, match="the tokenizer knows 401 words, the model's table has 400"):
        open_engine(copied, msgspec.structs.replace(manifest, files=files))


def test_an_artifact_whose_manifest_knows_another_table_is_not_opened(copied):
    """Where the runtime can tell, and before anything is computed."""
    manifest = read_manifest(copied)
    tables = msgspec.structs.replace(manifest.tables, vocabulary=VOCABULARY * 2)
    if manifest.engine == "openvino":
        pytest.skip("its graph names no tables; an id past one is read as zeros")
    with pytest.raises(SetupError, match="prepare"):
        open_engine(copied, msgspec.structs.replace(manifest, tables=tables)).start(1)


def test_an_artifact_with_a_damaged_file_is_refused_in_one_line(copied):
    manifest = read_manifest(copied)
    files = [path for path in sorted(copied.iterdir()) if path.name in manifest.files and path.name != "golden.json"]
    assert files
    for path in files:
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"\xff" * 64):
            path.write_bytes(content)
            with pytest.raises(SetupError, match="prepare again") as refused:
                open_engine(copied, manifest)
            assert "\n" not in str(refused.value), path
        path.write_bytes(whole)
    open_engine(copied, manifest)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_byte_of_a_manifest_is_wrong_it_is_opened_or_refused(copied, data):
    path = copied / MANIFEST
    kept = path.with_suffix(".kept")
    if not kept.exists():
        path.rename(kept)
    whole = bytearray(kept.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with contextlib.suppress(SetupError):
        open_engine(copied, read_manifest(copied))


def test_weights_that_are_no_numbers_are_not_prepared(bert, tmp_path):
    model = shutil.copytree(bert, tmp_path / "model")
    source = load_source(model)
    with torch.inference_mode():
        source.model.model.bert.embeddings.word_embeddings.weight[311, 3] = torch.nan
    source.model.model.save_pretrained(model)
    settings = Settings(model=str(model), state_dir=tmp_path)
    with pytest.raises(SetupError, match=r"word_embeddings.weight of .* holds NaN or infinity"):
        load_original(settings, resolve(settings, lambda _: None), lambda _: None)


def test_a_tokenizers_types_count_only_where_the_model_reads_them(xlm_roberta, tmp_path):
    """sentence-transformers gives none to a model whose tokenizer doesn't name them; its table may have one row."""
    model = shutil.copytree(xlm_roberta, tmp_path / "model")
    file = model / "tokenizer.json"
    described = json.loads(file.read_text())
    for piece in described["post_processor"]["pair"][4:]:
        next(iter(piece.values()))["type_id"] = 1
    file.write_text(json.dumps(described))
    source = load_source(model)
    assert export_tokenizer(source, tmp_path).document_type == 0
    source.tokenizer.model_input_names = [*source.tokenizer.model_input_names, "token_type_ids"]
    with pytest.raises(SetupError, match="token type 1, the model has 1"):
        export_tokenizer(source, tmp_path)


def test_a_tokenizer_that_adds_nothing_is_left_to_openvino(bert_settings, tmp_path):
    """Its empty text would be a row without tokens."""
    manifest = read_manifest(artifact_dir(bert_settings))
    bare = msgspec.structs.replace(manifest.template, prefix=[], middle=[], suffix=[])
    native = msgspec.structs.replace(manifest, engine="native", template=bare)
    with pytest.raises(NotForThisModelError, match="special tokens"):
        pack_native(native, None, None, tmp_path)
