"""A client of the reranking service: bounded retries, one deadline a call, large lists split. Needs httpx alone.

    with RerankClient("http://127.0.0.1:8080", key="k") as client:
        for each in client.rerank("how do bees find home", documents, top_n=3).results:
            print(each.score, each.content)

`AsyncRerankClient` is the same for asyncio. The decisions are pure functions (`retrying`, `parts`, `events`); the two
clients do the I/O.
"""

from reranking_client.asynchronous import AsyncRerankClient
from reranking_client.blocking import RerankClient
from reranking_client.failures import (
    BadReplyError,
    CallFailedError,
    OutOfTimeError,
    RefusedError,
    UnreachableError,
    UntrustedError,
)
from reranking_client.parts import Question
from reranking_client.results import Progress, Ranking, Result
from reranking_client.retrying import Budget, Retries

__all__ = [
    "AsyncRerankClient",
    "BadReplyError",
    "Budget",
    "CallFailedError",
    "OutOfTimeError",
    "Progress",
    "Question",
    "Ranking",
    "RefusedError",
    "RerankClient",
    "Result",
    "Retries",
    "UnreachableError",
    "UntrustedError",
]
