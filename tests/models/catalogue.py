"""The layouts and variants of each family that are tried. docs/models.md lists them."""

from __future__ import annotations

from pathlib import Path

import small_decoders as decoders
import small_encoders as encoders
import small_models
import variants as v
from kit import FLOATS, LONG, SPECIAL, Case
from small_encoders import DEBERTA, build_encoder, build_modernbert, build_sentence_transformer
from tokenizers import processors
from variants import built, changed, configured

ROBERTA = {"tokenizer": encoders.byte_level(), "max_position_embeddings": 514, "type_vocab_size": 1}
MPNET = {"pad_token_id": 1, "max_position_embeddings": 514}
TYPES = ["input_ids", "token_type_ids", "attention_mask"]
BERT_SC = "BertForSequenceClassification"

bert = small_models.build_bert
xlm_roberta = small_models.build_xlm_roberta
bi_encoder = small_models.build_bi_encoder
ettin = decoders.build_ettin
qwen3 = built(decoders.build_decoder, name="Qwen/Qwen3-Reranker-0.6B")
SEQ_CLS = "Qwen3ForSequenceClassification"


def activated(name: str) -> v.Change:
    package = "linear" if name == "Identity" else "activation"
    return configured(
        "config_sentence_transformers.json",
        model_type="CrossEncoder",
        activation_fn=f"torch.nn.modules.{package}.{name}",
    )


def qwen3_embedding(directory: Path) -> Path:
    """Qwen3-Embedding's kind: the last token, which its tokenizer adds, and padding on the left."""
    tokenizer = decoders.qwen_tokenizer(padding_side="left", chat_template=None)
    end = ("<|endoftext|>", tokenizer.pad_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end[0]}", pair=f"$A {end[0]} $B {end[0]}", special_tokens=[end]
    )
    encoder = decoders.build_decoder(directory.with_name("decoder"), "Qwen3Model", tokenizer=tokenizer)
    return build_sentence_transformer(directory, pooling="lasttoken", encoder=encoder)


def t5_bi_encoder(directory: Path) -> Path:
    """The kind of gtr and sentence-t5: T5's encoder alone, a dense layer, vectors of length 1."""
    import torch
    import transformers
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    tokenizer, encoder = encoders.word_pieces(), directory.with_name("encoder")
    torch.manual_seed(7)
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **shape)
    transformers.T5EncoderModel(config).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    dense = Dense(32, 16, bias=False, activation_function=torch.nn.Identity())
    return encoders.build_of_modules(directory, [Transformer(str(encoder)), Pooling(32, "mean"), dense, Normalize()])


QUICK = [
    Case("bert", "its own repository", bert, tokens=512),
    Case("xlm-roberta", "its own repository", xlm_roberta, tokens=512),
    Case(
        "roberta",
        "its own repository",
        built(build_encoder, architecture="RobertaForSequenceClassification", **ROBERTA),
    ),
    Case("ettin", "saved by sentence-transformers", ettin),
    Case("modernbert", "its own repository", build_modernbert),
    Case(
        "deberta",
        "its own repository",
        built(build_encoder, architecture="DebertaV2ForSequenceClassification", **DEBERTA),
    ),
    Case(
        "electra",
        "its own repository",
        built(
            build_encoder,
            architecture="ElectraForSequenceClassification",
            embedding_size=16,
            tokenizer=encoders.word_pieces(model_input_names=TYPES),
        ),
    ),
    Case("distilbert", "its own repository", built(build_encoder, architecture="DistilBertForSequenceClassification")),
    Case("mpnet", "its own repository", built(build_encoder, architecture="MPNetForSequenceClassification", **MPNET)),
    Case("bi-encoder", "mean of all tokens", built(bi_encoder, max_length=256), tokens=256),
    Case(
        "decoder with modules",
        "Qwen3, two words",
        built(decoders.build_with_modules, architecture="Qwen3ForCausalLM", chat_template=decoders.QWEN3_PAIRS),
        left_out=(SPECIAL,),
    ),
    Case("qwen3-reranker", "its own repository, known by its name", qwen3),
    Case(
        "mxbai-rerank-v2",
        "its own repository, known by its name",
        built(decoders.build_decoder, architecture="Qwen2ForCausalLM", name="mixedbread-ai/mxbai-rerank-base-v2"),
    ),
    Case("zerank", "its own repository, known by its name", built(decoders.build_decoder, name="zeroentropy/zerank-2")),
    Case(
        "ctxl-rerank-v2",
        "its own repository, known by its name",
        built(decoders.build_decoder, name="ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b"),
    ),
    Case(
        "bge-reranker-v2-gemma",
        "its own repository, known by its name",
        built(
            decoders.build_decoder,
            architecture="GemmaForCausalLM",
            tokenizer=decoders.gemma_tokenizer(),
            name="BAAI/bge-reranker-v2-gemma",
        ),
    ),
    Case("llama-nemotron-rerank", "its own repository, with code that is not run", decoders.build_nemotron),
]
"""One layout a family."""

ENCODERS = [
    Case("bert", "saved by sentence-transformers", changed(bert, v.saved_as("CrossEncoder"))),
    Case(
        "bert",
        "saved by sentence-transformers with a shorter limit",
        changed(bert, v.saved_as("CrossEncoder", max_length=96)),
        tokens=96,
    ),
    Case("bert", "weights in float16", changed(bert, v.in_type("float16"))),
    Case("bert", "weights in bfloat16", changed(bert, v.in_type("bfloat16"))),
    Case("bert", "weights in shards", changed(bert, v.in_shards)),
    Case("bert", "weights in pytorch_model.bin alone", changed(bert, v.in_a_pickle)),
    Case("bert", "a tokenizer of vocab.txt alone", changed(bert, v.with_a_word_list_alone)),
    Case("bert", "a shorter limit in the tokenizer", built(bert, max_length=96), tokens=96),
    Case(
        "bert",
        "no limit in the tokenizer",
        changed(bert, configured("tokenizer_config.json", model_max_length=None)),
        tokens=512,
    ),
    Case(
        "bert",
        "a limit past its positions",
        changed(bert, configured("tokenizer_config.json", model_max_length=8192)),
        tokens=512,
    ),
    Case("bert", "a limit in the settings", bert, tokens=64, options={"max_length_tokens": 64}),
    Case("bert", "cut on the left", changed(bert, configured("tokenizer_config.json", truncation_side="left"))),
    Case("bert", "padded on the left", changed(bert, configured("tokenizer_config.json", padding_side="left"))),
    Case("bert", "no token types", built(build_encoder, architecture=BERT_SC)),
    *(
        Case("bert", f"its own activation is {name}", changed(bert, activated(name)))
        for name in ("Identity", "Sigmoid", "Tanh")
    ),
    Case("bert", "at an odd path", changed(bert, v.at_an_odd_path)),
    Case("bert", "in the hub's cache", changed(bert, v.as_the_hub_s_cache)),
    Case("bert", "in a folder that is read-only", changed(bert, v.read_only)),
    Case("xlm-roberta", "no limit in the tokenizer", built(xlm_roberta, max_length=None), tokens=512),
    Case("xlm-roberta", "saved by sentence-transformers", changed(xlm_roberta, v.saved_as("CrossEncoder"))),
    Case("xlm-roberta", "weights in bfloat16 and shards", changed(xlm_roberta, v.in_type("bfloat16"), v.in_shards)),
    Case(
        "roberta",
        "padded on the left",
        built(
            build_encoder,
            architecture="RobertaForSequenceClassification",
            **ROBERTA | {"tokenizer": encoders.byte_level(padding_side="left")},
        ),
    ),
    Case("ettin", "in the hub's cache", changed(ettin, v.as_the_hub_s_cache)),
    Case("modernbert", "saved by sentence-transformers", changed(build_modernbert, v.saved_as("CrossEncoder"))),
    Case("modernbert", "mean of all tokens", built(build_modernbert, classifier_pooling="mean")),
    Case(
        "modernbert",
        "no limit in the tokenizer",
        built(build_modernbert, tokenizer=encoders.word_pieces(model_max_length=None)),
        tokens=512,
    ),
    Case(
        "deberta",
        "no limit in the tokenizer",
        built(
            build_encoder,
            architecture="DebertaV2ForSequenceClassification",
            tokenizer=encoders.word_pieces(model_max_length=None),
            **DEBERTA,
        ),
        tokens=512,
    ),
    Case(
        "deberta",
        "token types",
        built(
            build_encoder,
            architecture="DebertaV2ForSequenceClassification",
            **DEBERTA | {"type_vocab_size": 2, "tokenizer": encoders.word_pieces(model_input_names=TYPES)},
        ),
    ),
]

BI_ENCODERS = [
    *(
        Case("bi-encoder", f"{pooling} pooling", built(build_sentence_transformer, pooling=pooling), FLOATS)
        for pooling in ("max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    ),
    Case("bi-encoder", "cls pooling", built(build_sentence_transformer, pooling="cls")),
    Case("bi-encoder", "no limit", bi_encoder, tokens=512),
    Case("bi-encoder", "a dense layer", built(build_sentence_transformer, dense=24), FLOATS),
    Case("bi-encoder", "normalized", built(bi_encoder, max_length=256, normalize=True)),
    *(
        Case("bi-encoder", f"{similarity} of vectors", built(bi_encoder, max_length=256, similarity=similarity), FLOATS)
        for similarity in ("dot", "euclidean", "manhattan")
    ),
    Case("bi-encoder", "truncated vectors", built(bi_encoder, max_length=256, truncate_dim=12), FLOATS),
    Case(
        "bi-encoder",
        "prompts",
        built(build_sentence_transformer, prompts={"query": "question: ", "document": "text: "}),
    ),
    Case(
        "bi-encoder",
        "prompts that don't count",
        built(build_sentence_transformer, prompts={"query": "question: ", "document": "text: "}, include_prompt=False),
        FLOATS,
    ),
    Case(
        "bi-encoder",
        "an empty prompt beside a default one",
        built(
            build_sentence_transformer,
            prompts={"query": "", "passage": "text: ", "all": "all: "},
            default_prompt_name="all",
        ),
    ),
    Case(
        "bi-encoder",
        "a classifier's config.json",
        changed(built(build_sentence_transformer), configured("config.json", architectures=[BERT_SC])),
    ),
    Case(
        "bi-encoder",
        "modules.json alone",
        changed(built(build_sentence_transformer), v.without("config_sentence_transformers.json")),
    ),
    Case(
        "bi-encoder",
        "the transformer in a folder of its own",
        changed(built(build_sentence_transformer), v.in_a_folder_of_its_own),
    ),
    Case(
        "bi-encoder",
        "ModernBERT",
        changed(built(build_modernbert, architecture="ModernBertModel"), v.saved_as("SentenceTransformer")),
    ),
    Case("other bi-encoders", "T5's encoder", t5_bi_encoder),
    Case(
        "other bi-encoders",
        "Qwen3, its last token",
        qwen3_embedding,
    ),
]

DECODERS = [
    Case(
        "qwen3-reranker",
        "known by its chat template",
        built(decoders.build_decoder, tokenizer=decoders.qwen_tokenizer(chat_template=decoders.QWEN3_PAIRS)),
    ),
    Case(
        "qwen3-reranker", "named by RERANK_RECIPE", built(decoders.build_decoder), options={"recipe": "qwen3-reranker"}
    ),
    Case(
        "qwen3-reranker",
        "converted to one label",
        built(decoders.build_decoder, architecture=SEQ_CLS, name="tomaarsen/Qwen3-Reranker-0.6B-seq-cls"),
    ),
    Case("qwen3-reranker", "weights in bfloat16 and shards", changed(qwen3, v.in_type("bfloat16"), v.in_shards)),
    Case("qwen3-reranker", "head and words in one table", built(qwen3, tie_word_embeddings=True)),
    Case("qwen3-reranker", "padded on the left", built(qwen3, tokenizer=decoders.qwen_tokenizer(padding_side="left"))),
    Case("qwen3-reranker", "a limit in the settings", qwen3, tokens=300, options={"max_length_tokens": 300}),
    Case("qwen3-reranker", "in the hub's cache", changed(qwen3, v.as_the_hub_s_cache)),
    Case(
        "mxbai-rerank-v2",
        "converted to one label",
        built(
            decoders.build_decoder,
            architecture="Qwen2ForSequenceClassification",
            name="michaelfeil/mxbai-rerank-base-v2-seq",
        ),
    ),
    Case(
        "mxbai-rerank-v2",
        "layers that look only near",
        built(
            decoders.build_decoder,
            architecture="Qwen2ForCausalLM",
            name="mixedbread-ai/mxbai-rerank-base-v2",
            use_sliding_window=True,
            sliding_window=16,
            max_window_layers=1,
        ),
        engines=FLOATS,
    ),
    Case(
        "zerank",
        "converted to one label",
        built(decoders.build_decoder, architecture=SEQ_CLS, name="michaelfeil/zerank-1-small-seq"),
    ),
    Case(
        "ctxl-rerank-v2",
        "converted to one label",
        built(decoders.build_decoder, architecture=SEQ_CLS, name="ContextualAI/ctxl-rerank-v2-1b-seq-cls"),
    ),
    Case(
        "bge-reranker-v2-gemma",
        "weights in bfloat16",
        changed(
            built(
                decoders.build_decoder,
                architecture="GemmaForCausalLM",
                tokenizer=decoders.gemma_tokenizer(),
                name="BAAI/bge-reranker-v2-gemma",
            ),
            v.in_type("bfloat16"),
        ),
    ),
    Case(
        "decoder with modules",
        "Qwen3, one label",
        built(decoders.build_with_modules, architecture=SEQ_CLS, chat_template=decoders.QWEN3_PAIRS),
        left_out=(SPECIAL,),
    ),
    Case(
        "decoder with modules",
        "Qwen3, the document first",
        built(
            decoders.build_with_modules,
            architecture="Qwen3ForCausalLM",
            chat_template=decoders.DOCUMENT_FIRST_PAIRS,
            max_position_embeddings=8192,
        ),
        left_out=(SPECIAL, LONG),
    ),
    Case(
        "decoder with modules",
        "Qwen3, an instruction by default",
        built(
            decoders.build_with_modules,
            architecture="Qwen3ForCausalLM",
            chat_template=decoders.QWEN3_PAIRS,
            prompt="Find what the question asks for",
        ),
        left_out=(SPECIAL,),
    ),
]
