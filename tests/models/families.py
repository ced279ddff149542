"""The families of models: a table of docs/models.md."""

from __future__ import annotations

from kit import BERT, DECODER, ENCODER, WITHOUT_INT8, Family

FAMILIES = {
    "bert": Family(
        "BERT cross-encoders",
        "cross-encoder/ms-marco-MiniLM-L6-v2 and its siblings, cross-encoder/ms-marco-TinyBERT-L2-v2",
        "`BertForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "xlm-roberta": Family(
        "XLM-RoBERTa cross-encoders",
        "BAAI/bge-reranker-base, -large, -v2-m3",
        "`XLMRobertaForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "roberta": Family(
        "RoBERTa cross-encoders",
        "cross-encoder/stsb-roberta-base",
        "`RobertaForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "ettin": Family(
        "Ettin rerankers",
        "cross-encoder/ettin-reranker-17m-v1, -32m-v1, -68m-v1, -150m-v1, -400m-v1, -1b-v1",
        "`modules.json` (Transformer, Pooling, Dense, LayerNorm, Dense) and `model_type: CrossEncoder`",
        BERT,
        "CrossEncoder",
    ),
    "modernbert": Family(
        "ModernBERT cross-encoders",
        "Alibaba-NLP/gte-reranker-modernbert-base, ibm-granite/granite-embedding-reranker-english-r2",
        "`ModernBertForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "deberta": Family(
        "DeBERTa v2 and v3 cross-encoders",
        "mixedbread-ai/mxbai-rerank-xsmall-v1, -base-v1, -large-v1",
        "`DebertaV2ForSequenceClassification` with one label",
        ENCODER,
        "CrossEncoder",
    ),
    "electra": Family(
        "ELECTRA cross-encoders",
        "cross-encoder/ms-marco-electra-base",
        "`ElectraForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "distilbert": Family(
        "DistilBERT cross-encoders",
        "cross-encoders trained from distilbert-base",
        "`DistilBertForSequenceClassification` with one label",
        BERT,
        "CrossEncoder",
    ),
    "mpnet": Family(
        "MPNet cross-encoders",
        "cross-encoders trained from microsoft/mpnet-base",
        "`MPNetForSequenceClassification` with one label",
        ENCODER,
        "CrossEncoder",
    ),
    "bi-encoder": Family(
        "Bi-encoders of BERT's and ModernBERT's kinds",
        "sentence-transformers/all-MiniLM-L6-v2, intfloat/multilingual-e5, BAAI/bge-m3 (dense)"
        ", Alibaba-NLP/gte-modernbert-base",
        "`modules.json`, and `model_type: SentenceTransformer` or none",
        BERT,
        "SentenceTransformer",
        "The native engine serves the mean of all tokens, or the first one's output, normalized or not.",
    ),
    "other bi-encoders": Family(
        "Other bi-encoders",
        "sentence-transformers/gtr-t5-base, Qwen/Qwen3-Embedding-0.6B",
        "`modules.json`, and `model_type: SentenceTransformer` or none",
        WITHOUT_INT8,
        "SentenceTransformer",
    ),
    "decoder with modules": Family(
        "Decoders that sentence-transformers saved, with a chat template for pairs",
        "conversions of Qwen3-Reranker and others to sentence-transformers' layout",
        "`modules.json` and `model_type: CrossEncoder`; the chat template has the words",
        DECODER,
        "CrossEncoder",
        "sentence-transformers reads the name of a special token in a text as that token; here it stays text.",
    ),
    "qwen3-reranker": Family(
        "Qwen3-Reranker",
        "Qwen/Qwen3-Reranker-0.6B, -4B, -8B; tomaarsen/Qwen3-Reranker-0.6B-seq-cls",
        "its name, or its chat template",
        BERT,
        "qwen3-reranker",
    ),
    "mxbai-rerank-v2": Family(
        "mxbai-rerank v2",
        "mixedbread-ai/mxbai-rerank-base-v2, -large-v2",
        "its name, or its chat template",
        DECODER,
        "mxbai-rerank-v2",
    ),
    "zerank": Family(
        "zerank",
        "zeroentropy/zerank-1, -1-small, -2",
        "its name",
        DECODER,
        "zerank",
        "The score is sigmoid(logit / 5).",
    ),
    "ctxl-rerank-v2": Family(
        "ctxl-rerank v2",
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b, -2b, -6b",
        "its name, or its chat template",
        DECODER,
        "ctxl-rerank-v2",
        "The vendor's code cuts off the question after a long document; here the document gives way.",
    ),
    "bge-reranker-v2-gemma": Family(
        "bge-reranker-v2-gemma", "BAAI/bge-reranker-v2-gemma", "its name", DECODER, "bge-reranker-v2-gemma"
    ),
    "llama-nemotron-rerank": Family(
        "llama-nemotron-rerank",
        "nvidia/llama-nemotron-rerank-1b-v2",
        "its name; its own code is not run",
        DECODER,
        "llama-nemotron-rerank",
    ),
}
