"""LangChain's compressors, and the client of Infinity."""

from __future__ import annotations

from situations import client, main


@client("langchain-community JinaRerank")
def langchain_jina(url, key, query, documents, echo):  # noqa: ARG001 - it asks for none
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"
    ranker = JinaRerank(jina_api_key=key, model="m", top_n=len(documents))
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


@client("langchain-community InfinityRerank")
def langchain_infinity(url, key, query, documents, echo):  # noqa: ARG001
    from infinity_client import Client
    from langchain_community.document_compressors import InfinityRerank

    # It takes no AuthenticatedClient.
    bearer = Client(base_url=url, headers={"Authorization": f"Bearer {key}"})
    ranker = InfinityRerank(client=bearer, model="m", top_n=len(documents))
    return [(item["index"], item["relevance_score"], None) for item in ranker.rerank(documents, query)]


@client("infinity-client")
def infinity(url, key, query, documents, echo):
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=query, documents=documents, return_documents=echo, model="m")
    reply = rerank.sync(client=AuthenticatedClient(base_url=url, token=key), body=body)
    return [(item.index, item.relevance_score, item.document if echo else None) for item in reply.results]


if __name__ == "__main__":
    main()
