"""The reranking API: a query and documents in, the documents in order of relevance out."""

__version__ = "0.2.0"
