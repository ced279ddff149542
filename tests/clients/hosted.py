"""Clients of hosted APIs and the frameworks built on them."""

from __future__ import annotations

from situations import client, main


@client("mixedbread")
def mixedbread(url, key, query, documents, echo):
    from mixedbread import Mixedbread

    reply = Mixedbread(api_key=key, base_url=url, max_retries=0).rerank(
        model="m", query=query, input=documents, return_input=echo
    )
    return [(item.index, item.score, item.input if echo else None) for item in reply.data]


@client("pinecone")
def pinecone(url, key, query, documents, echo):
    from pinecone import Pinecone

    reply = Pinecone(api_key=key, host=url).inference.rerank(
        model="m", query=query, documents=documents, return_documents=echo
    )
    assert reply.usage.rerank_units == 1
    return [(item.index, item.score, item.document["text"] if echo else None) for item in reply.data]


@client("langchain-community JinaRerank")
def langchain_jina(url, key, query, documents, echo):  # noqa: ARG001 - it asks for none
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"
    ranker = JinaRerank(jina_api_key=key, model="m", top_n=len(documents))
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


@client("langchain-community InfinityRerank")
def langchain_infinity(url, key, query, documents, echo):  # noqa: ARG001
    from infinity_client import AuthenticatedClient
    from langchain_community.document_compressors import InfinityRerank

    ranker = InfinityRerank(client=AuthenticatedClient(base_url=url, token=key), model="m", top_n=len(documents))
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


@client("infinity-client")
def infinity(url, key, query, documents, echo):
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=query, documents=documents, return_documents=echo, model="m")
    reply = rerank.sync(client=AuthenticatedClient(base_url=url, token=key), body=body)
    return [(item.index, item.relevance_score, item.document if echo else None) for item in reply.results]


@client("langchain-cohere")
def langchain_cohere(url, key, query, documents, echo):
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    ranker = CohereRerank(cohere_api_key=key, base_url=url, model="m", top_n=len(documents))
    if echo:
        found = ranker.compress_documents([Document(text) for text in documents], query)
        return [
            (documents.index(each.page_content), each.metadata["relevance_score"], each.page_content) for each in found
        ]
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


if __name__ == "__main__":
    import coheres  # noqa: F401 - registers more
    import others  # noqa: F401

    main()
