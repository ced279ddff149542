"""Models that are refused, each with a part of what is said. docs/models.md has the whole of it."""

from __future__ import annotations

from pathlib import Path

import small_decoders as decoders
import small_encoders as encoders
import small_models
import variants as v
from catalogue import BERT_SC, SEQ_CLS, TYPES, activated, bert, qwen3
from kit import Refusal
from small_encoders import build_encoder, build_of_modules, build_sentence_transformer
from variants import built, changed, configured


def build_splade(directory: Path) -> Path:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    encoder = build_encoder(directory.with_name("encoder"), "BertForMaskedLM")
    transformer = Transformer(str(encoder), transformer_task="fill-mask")
    return build_of_modules(directory, [transformer, SpladePooling()], "SparseEncoder")


def build_colbert(directory: Path) -> Path:
    from sentence_transformers import MultiVectorEncoder

    encoder = build_encoder(directory.with_name("encoder"), "BertModel")
    MultiVectorEncoder(str(encoder)).save(str(directory))
    return directory


def build_static(directory: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(small_models.bert_tokenizer().to_str())
    return build_of_modules(directory, [StaticEmbedding(tokenizer, embedding_dim=16)])


def build_two_ways(directory: Path) -> Path:
    from sentence_transformers.base.modules import Dense, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder = build_encoder(directory.with_name("encoder"), "BertModel")
    ways = Router.for_query_document(query_modules=[Dense(32, 16)], document_modules=[Dense(32, 16)])
    return build_of_modules(directory, [Transformer(str(encoder)), Pooling(32, "mean"), ways])


def chatty_bi_encoder(directory: Path) -> Path:
    encoder = decoders.build_decoder(directory.with_name("encoder"), "Qwen3Model")
    return build_sentence_transformer(directory, pooling="lasttoken", encoder=encoder)


def prompted(directory: Path) -> Path:
    """Build a cross-encoder before whose queries sentence-transformers puts a prompt."""
    from sentence_transformers import CrossEncoder

    encoder = bert(directory.with_name("encoder"))
    CrossEncoder(str(encoder), prompts={"web": "bees : "}, default_prompt_name="web").save(str(directory))
    return directory


def with_a_slow_tokenizer(directory: Path) -> None:
    """Leave a tokenizer that only Python code reads."""
    v.with_a_word_list_alone(directory)
    decoders.change(
        directory / "tokenizer_config.json",
        tokenizer_class="BertJapaneseTokenizer",
        word_tokenizer_type="basic",
        subword_tokenizer_type="wordpiece",
    )


bert_model = built(build_encoder, architecture="BertModel")
too_many_words = built(build_encoder, architecture=BERT_SC, vocab_size=120)
typed = encoders.word_pieces(model_input_names=TYPES)

REFUSALS = [
    Refusal(
        "Sparse vectors (SPLADE)", "naver/splade-v3, opensearch-neural-sparse-encoding", build_splade, "SparseEncoder"
    ),
    Refusal(
        "A vector for each token (ColBERT)",
        "answerdotai/answerai-colbert-small-v1, mixedbread-ai/mxbai-edge-colbert-v0",
        build_colbert,
        "is a MultiVectorEncoder",
    ),
    Refusal(
        "Code of the model's own",
        "jinaai/jina-reranker-v2-base-multilingual, Alibaba-NLP/gte-multilingual-reranker-base",
        changed(bert, v.with_code("JinaForRanking")),
        "modeling.JinaForRanking",
    ),
    Refusal("Word vectors without a transformer", "minishlab/potion-base-8M", build_static, "names StaticEmbedding"),
    Refusal(
        "Other layers for queries than for documents",
        "opensearch's inference-free models",
        build_two_ways,
        "names Router",
    ),
    Refusal(
        "A bi-encoder whose texts go into a chat template",
        "",
        chatty_bi_encoder,
        "by a chat template",
    ),
    Refusal("Several labels", "cross-encoder/nli-deberta-v3-base", built(bert, labels=3), "has 3 labels"),
    Refusal("A chat model", "Qwen/Qwen3-0.6B", decoders.build_decoder, "nothing in it says that it is a reranker"),
    Refusal(
        "A decoder with one label, and nothing that tells its words",
        "a fine-tune under another name",
        built(decoders.build_decoder, architecture=SEQ_CLS),
        "nothing in it says that it is a reranker",
    ),
    Refusal(
        "A decoder that no recipe is for",
        "a chat model of another architecture",
        built(decoders.build_decoder, architecture="MistralForCausalLM"),
        "no recipe is for it",
    ),
    Refusal(
        "A recipe for another architecture",
        "",
        qwen3,
        "mxbai-rerank-v2 is for",
        {"recipe": "mxbai-rerank-v2"},
    ),
    Refusal("A bare encoder", "google-bert/bert-base-uncased", bert_model, "not a CrossEncoder or SentenceTransformer"),
    Refusal(
        "Weights that are quantized",
        "GPTQ, AWQ and bitsandbytes repositories",
        changed(bert, configured("config.json", quantization_config={"quant_method": "gptq"})),
        "quantized (gptq)",
    ),
    Refusal(
        "An adapter",
        "LoRA repositories",
        changed(
            bert,
            configured("adapter_config.json", base_model_name_or_path="base"),
            v.renamed(v.WEIGHTS, "adapter_model.safetensors"),
        ),
        "is an adapter",
    ),
    Refusal("Another activation than Identity, Sigmoid and Tanh", "", changed(bert, activated("Softplus")), "Softplus"),
    Refusal(
        "A chat template that changes texts",
        "one with `| trim`",
        built(
            decoders.build_with_modules,
            architecture="Qwen3ForCausalLM",
            chat_template=decoders.QWEN3_PAIRS.replace("| first }}\n<Document>", "| first | trim }}\n<Document>"),
        ),
        "changes the text of {query}",
    ),
    Refusal(
        "Rotary positions that depend on the longest text of a batch",
        "decoders with longrope or dynamic scaling",
        changed(qwen3, configured("config.json", rope_parameters={"rope_type": "longrope"})),
        "rotary positions of the kind longrope",
    ),
    Refusal(
        "Layers that read the padding of a batch",
        "ConvBERT, FNet, Nyströmformer, YOSO",
        built(build_encoder, architecture="ConvBertForSequenceClassification", embedding_size=32),
        "scores depend on what else is in a batch",
    ),
    Refusal(
        "Relative positions in BERT",
        "models with position_embedding_type relative_key",
        changed(bert, configured("config.json", position_embedding_type="relative_key_query")),
        "positions of the kind relative_key_query",
    ),
    Refusal(
        "A temperature of Nemotron's own code",
        "",
        changed(decoders.build_nemotron, configured("config.json", temperature=0.25)),
        "divides its scores by 0.25",
    ),
    Refusal(
        "A dense layer with an activation that is not torch's",
        "",
        changed(
            built(build_sentence_transformer, dense=24),
            configured("2_Dense/config.json", activation_function="transformers.activations.GELUActivation"),
        ),
        "names the activation transformers.activations.GELUActivation",
    ),
    Refusal(
        "Weights of an adapter beside the model's",
        "LoRA weights that were not merged",
        changed(bert, v.with_tensor("bert.encoder.layer.0.attention.self.query.lora_A.weight")),
        "lora_A.weight, for which its BertForSequenceClassification has no place",
    ),
    Refusal(
        "A head with more layers than its class has",
        "heads of a model's own code",
        changed(bert, v.with_tensor("classifier.dense.weight")),
        "classifier.dense.weight, for which",
    ),
    Refusal("No weights", "", changed(bert, v.without(v.WEIGHTS)), "holds no weights"),
    Refusal(
        "Weights in another format alone",
        "repositories for ONNX Runtime, TensorFlow or llama.cpp",
        changed(bert, v.renamed(v.WEIGHTS, "onnx/model.onnx")),
        "holds weights as onnx/model.onnx",
    ),
    Refusal(
        "Weights under another name",
        "a variant, model.fp16.safetensors",
        changed(bert, v.renamed(v.WEIGHTS, "model.fp16.safetensors")),
        "give model.fp16.safetensors that name",
    ),
    Refusal(
        "A default prompt of a cross-encoder that is no decoder",
        "",
        prompted,
        "the tokenizer that we don't heed",
    ),
    Refusal(
        "A chat template that prints the day",
        "",
        built(
            decoders.build_with_modules,
            architecture="Qwen3ForCausalLM",
            chat_template=decoders.QWEN3_PAIRS.replace(
                "<|im_start|>system\n", "<|im_start|>{{ strftime_now('%d') }}\n"
            ),
        ),
        "prints the day",
    ),
    Refusal(
        "A tokenizer for which special tokens are text",
        "",
        changed(qwen3, configured("tokenizer_config.json", split_special_tokens=True)),
        "says split_special_tokens",
    ),
    Refusal(
        "Weights that were cut short",
        "a download that broke off",
        changed(bert, v.cut_short(v.WEIGHTS)),
        "is not whole",
    ),
    Refusal(
        "A pointer of git-lfs", "a clone without git-lfs", changed(bert, v.as_a_pointer(v.WEIGHTS)), "git-lfs' pointer"
    ),
    Refusal(
        "A shard that is missing",
        "",
        changed(bert, v.in_shards, v.without("model-00002-of-00003.safetensors")),
        "model-00002-of-00003.safetensors, which is not there",
    ),
    Refusal(
        "A head that no file holds",
        "an encoder that was never trained to rank",
        changed(bert, v.without_tensor("classifier.weight")),
        "classifier.weight",
    ),
    Refusal("A weight that is no number", "", changed(bert, v.with_nan("classifier.weight")), "NaN"),
    Refusal("No tokenizer", "", changed(bert, v.without("tokenizer.json")), "holds no tokenizer"),
    Refusal(
        "A tokenizer that only Python code reads",
        "tohoku-nlp's Japanese BERT",
        changed(bert, with_a_slow_tokenizer),
        "no fast tokenizer",
    ),
    Refusal(
        "A tokenizer of sentencepiece alone",
        "microsoft/deberta-v3-base",
        changed(bert, v.renamed("tokenizer.json", "spm.model")),
        "pip install sentencepiece",
    ),
    Refusal(
        "A tokenizer that can't pad",
        "",
        built(build_encoder, architecture=BERT_SC, tokenizer=encoders.word_pieces(pad_token=None)),
        "names no pad_token",
    ),
    Refusal(
        "More words than the model's table has", "tokens that were added", too_many_words, "the model's table has 120"
    ),
    Refusal(
        "More token types than the model has",
        "",
        built(build_encoder, architecture=BERT_SC, type_vocab_size=1, tokenizer=typed),
        "token type 1, the model has 1",
    ),
    Refusal("A length that leaves no room for texts", "", bert, "leaves no room", {"max_length_tokens": 4}),
    Refusal(
        "A length that cuts short questions beside a decoder's words",
        "",
        qwen3,
        "leaves too little room for short questions",
        {"max_length_tokens": 200},
    ),
]
