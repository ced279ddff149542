"""What a directory holds is read off its files; what can't be served rightly is refused by name."""

import contextlib
import json
import shutil

import pytest
import small_decoders
import small_encoders
import small_models
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.models.files import LFS_POINTER
from webapp.engine.models.layout import read_layout
from webapp.engine.models.original import load_source
from webapp.engine.prepare import pipeline

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bert(tmp_path, request):
    """A cross-encoder of one's own, to change."""
    return shutil.copytree(request.getfixturevalue("built_bert"), tmp_path / "cross-encoder")


@pytest.fixture
def bi_encoder(tmp_path, request):
    return shutil.copytree(request.getfixturevalue("built_bi_encoder"), tmp_path / "bi-encoder")


@pytest.fixture(scope="module")
def built_bert(tmp_path_factory):
    return small_models.build_bert(tmp_path_factory.mktemp("layouts") / "bert")


@pytest.fixture(scope="module")
def built_bi_encoder(tmp_path_factory):
    return small_models.build_bi_encoder(tmp_path_factory.mktemp("layouts") / "bi-encoder", max_length=64)


def change(path, **different):
    """Set fields of a JSON file, which may not be there yet; None takes a field away."""
    contents = json.loads(path.read_text()) if path.exists() else {}
    contents |= different
    path.write_text(json.dumps({name: value for name, value in contents.items() if value is not None}))


def refusal(directory):
    with pytest.raises(SetupError) as raised:
        load_source(directory).check()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("architecture", ["BertModel", "BertForSequenceClassification", "Qwen3ForCausalLM"])
def test_the_class_that_sentence_transformers_files_name_goes_before_the_architecture(bi_encoder, architecture):
    change(bi_encoder / "config.json", architectures=[architecture])
    assert read_layout(bi_encoder).kind == "embedding"
    change(bi_encoder / "config_sentence_transformers.json", model_type=None)
    assert read_layout(bi_encoder).kind == "embedding", "without a name, modules make a SentenceTransformer"
    change(bi_encoder / "config_sentence_transformers.json", model_type="CrossEncoder")
    assert read_layout(bi_encoder).kind == "cross-encoder"


@pytest.mark.parametrize("model_type", ["SparseEncoder", "MultiVectorEncoder", "SomethingNew"])
def test_other_classes_of_sentence_transformers_are_refused_by_name(bi_encoder, model_type):
    change(bi_encoder / "config_sentence_transformers.json", model_type=model_type)
    assert f"is a {model_type}" in refusal(bi_encoder)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("sentence_transformers.sparse_encoder.modules.SpladePooling", "SparseEncoder"),
        ("sentence_transformers.multi_vector_encoder.modules.MultiVectorMask", "MultiVectorEncoder"),
        ("pylate.models.Dense.Dense", "pylate.models.Dense.Dense"),
        ("custom_st.Transformer", "custom_st.Transformer"),
    ],
)
def test_modules_of_other_classes_are_refused_where_no_file_names_the_class(bi_encoder, module, named):
    change(bi_encoder / "config_sentence_transformers.json", model_type=None)
    listed = json.loads((bi_encoder / "modules.json").read_text())
    listed[-1]["type"] = module
    (bi_encoder / "modules.json").write_text(json.dumps(listed))
    assert named in refusal(bi_encoder)


def test_several_labels_are_refused_with_their_names(bert):
    change(bert / "config.json", id2label={"0": "contradiction", "1": "entailment"}, label2id=None)
    assert "has 2 labels (contradiction, entailment)" in refusal(bert)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_named(bert, name):
    (bert / name).write_bytes(LFS_POINTER + b"v1\noid sha256:00\nsize 1\n")
    assert f"{bert / name} is only git-lfs' pointer" in refusal(bert)


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0.9, 0.01, 0])
def test_weights_that_were_cut_short_are_named_with_their_size(bert, keep):
    cut(bert / "model.safetensors", keep)
    assert "model.safetensors is not whole: it has" in refusal(bert)


def test_a_pickle_that_was_cut_short_is_named(bert):
    import torch

    torch.save(load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    load_source(bert).check()
    cut(bert / "pytorch_model.bin")
    assert "pytorch_model.bin is not whole" in refusal(bert)


def test_a_shard_that_is_missing_is_named(bert):
    (bert / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    assert "model-00001-of-00002.safetensors, which is not there" in refusal(bert)


@pytest.mark.parametrize(
    ("files", "what"), [(["model.safetensors"], "weights"), (["tokenizer.json", "vocab.txt"], "tokenizer")]
)
def test_what_is_missing_is_named(bert, files, what):
    for name in files:
        (bert / name).unlink(missing_ok=True)
    assert f"holds no {what}" in refusal(bert)


@pytest.mark.parametrize("name", ["classifier.weight", "bert.encoder.layer.1.output.dense.bias"])
def test_a_weight_that_no_file_holds_is_named_and_not_made_up(bert, name):
    tensors = load_file(bert / "model.safetensors")
    del tensors[name]
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    assert f"holds {name} of its BertForSequenceClassification" in refusal(bert)


def test_a_weight_that_no_score_depends_on_may_be_missing(bi_encoder):
    tensors = load_file(bi_encoder / "model.safetensors")
    unused = [name for name in tensors if "pooler" in name]
    for name in unused:
        del tensors[name]
    save_file(tensors, bi_encoder / "model.safetensors", metadata={"format": "pt"})
    assert unused
    load_source(bi_encoder).check()


def test_a_weight_that_is_no_number_is_named(bert):
    tensors = load_file(bert / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] * float("nan")
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.bias" in refusal(bert)


@pytest.mark.parametrize(
    "activation", ["torch.nn.modules.activation.Softplus", "os.system", "custom.Sigmoid", "torch.nn.Softmax"]
)
def test_an_activation_that_may_change_the_order_is_refused_by_name_and_not_imported(bert, activation):
    change(bert / "config_sentence_transformers.json", model_type="CrossEncoder", activation_fn=activation)
    assert activation in refusal(bert)


@pytest.mark.parametrize("name", ["Identity", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("place", ["config_sentence_transformers.json", "config.json", "config.json, old"])
def test_the_model_s_own_activation_is_known(bert, name, place):
    path = f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"
    if place == "config_sentence_transformers.json":
        change(bert / place, model_type="CrossEncoder", activation_fn=path)
    elif place == "config.json":
        change(bert / place, sentence_transformers={"activation_fn": path})
    else:
        change(bert / "config.json", sbert_ce_default_activation_function=path)
    assert read_layout(bert).activation == name


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_s_own_is_refused_by_name(bert, file):
    change(bert / file, auto_map={"AutoModel": "modeling_new.NewModel"})
    (bert / "modeling_new.py").write_text("raise SystemExit('it was run')")
    assert "modeling_new.NewModel" in refusal(bert)


def test_quantized_weights_and_adapters_are_refused_by_name(bert):
    change(bert / "config.json", quantization_config={"quant_method": "gptq"})
    assert "quantized (gptq)" in refusal(bert)
    change(bert / "config.json", quantization_config=None)
    change(bert / "adapter_config.json", base_model_name_or_path="some/base")
    (bert / "model.safetensors").unlink()
    assert "adapter" in refusal(bert)


@pytest.mark.parametrize("file", ["config.json", "modules.json", "config_sentence_transformers.json"])
@pytest.mark.parametrize("rubbish", ["", "[", "[]", "3", '{"a": 1', '[{"type": 1}]'])
def test_rubbish_in_a_file_is_refused_with_its_name(bert, file, rubbish):
    (bert / file).write_text(rubbish)
    assert file in refusal(bert)


def test_a_path_outside_of_the_directory_is_refused(bi_encoder):
    listed = json.loads((bi_encoder / "modules.json").read_text())
    listed[0]["path"] = "../elsewhere"
    (bi_encoder / "modules.json").write_text(json.dumps(listed))
    assert "outside" in refusal(bi_encoder)


def test_a_directory_of_nothing_is_refused(tmp_path):
    assert "holds no config.json" in refusal(tmp_path)


def test_prompts_are_those_that_sentence_transformers_takes(bi_encoder):
    for prompts in (
        {"query": "q: ", "document": "d: "},
        {"query": "", "passage": "p: "},
        {"query": "q: ", "passage": "p: ", "document": ""},
        {"corpus": "c: "},
        {},
    ):
        change(
            bi_encoder / "config_sentence_transformers.json",
            prompts=prompts,
            default_prompt_name=next(iter(prompts), None),
        )
        source, theirs = load_source(bi_encoder), SentenceTransformer(str(bi_encoder))
        query, document = source.prompts
        assert (theirs.encode(query + "bees", prompt="") == theirs.encode_query("bees")).all(), prompts
        assert (theirs.encode(document + "bees", prompt="") == theirs.encode_document("bees")).all(), prompts


def test_a_list_of_torch_s_files_beside_whole_weights_counts_for_nothing(tmp_path):
    model = small_models.build_bert(tmp_path / "model")
    (model / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}')
    assert read_layout(model).kind == "cross-encoder"


@pytest.mark.parametrize(
    "odd", [{"num_labels": "two"}, {"rope_parameters": {"rope_type": ["longrope"]}}, {"rope_scaling": {"type": {}}}]
)
def test_odd_values_are_refused_in_one_line_or_count_for_nothing(tmp_path, odd):
    model = small_models.build_bert(tmp_path / "model")
    small_decoders.change(model / "config.json", **odd)
    with contextlib.suppress(SetupError):
        read_layout(model)


def test_a_tokenizer_for_which_special_tokens_are_text_is_refused(tmp_path):
    """The tokenizer's configuration says that names are text; its file alone does not."""
    model = small_encoders.build_sentence_transformer(
        tmp_path / "model",
        pooling="lasttoken",
        encoder=small_decoders.build_decoder(
            tmp_path / "encoder", "Qwen3Model", tokenizer=small_decoders.qwen_tokenizer(chat_template=None)
        ),
    )
    small_decoders.change(model / "tokenizer_config.json", split_special_tokens=True)
    settings = Settings(model=str(model), state_dir=tmp_path, engine="torch", precision="fp32")
    with pytest.raises(SetupError, match="says split_special_tokens"):
        pipeline.prepare(settings, lambda _: None)
