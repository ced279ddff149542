"""Ask a running service by its client, and follow the request's progress meanwhile."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from typing import Any

import click
from reranking_client import (
    CallFailedError,
    OutOfTimeError,
    Question,
    Ranking,
    RerankClient,
    Result,
    Retries,
    UnreachableError,
    UntrustedError,
)
from reranking_client.config import Trust

RETRIES = Retries(delays_s=(0.1, 0.4, 1.6))
"""Long enough for a restart, and no longer: a user waits at the terminal."""

SPLIT_DOCUMENTS = 1000

REMEDIES = {
    UntrustedError: "--ca-file names a certificate to trust",
    UnreachableError: "--url or RERANK_URL says where",
    OutOfTimeError: "--timeout-s waits longer",
}


def rerank(
    url: str, key: str, question: Question, *, timeout_s: float, trust: Trust, report: Callable[[int], None]
) -> dict[str, Any]:
    """Ask, and return the reply in the API's form.

    Args:
        url: the service's address, the part in front of `/rerank`.
        key: an API key; empty: none.
        question: query and documents.
        timeout_s: longest wait.
        trust: certificates for https: a file, a context, or None for the system's.
        report: called with the number of documents scored, if the service reports it.

    Raises:
        click.ClickException: there was no answer, or an error.
    """
    request_id = f"cli-{uuid.uuid4()}"

    def new_client() -> RerankClient:
        return RerankClient(
            url, key=key, timeout_s=timeout_s, retries=RETRIES, split_documents=SPLIT_DOCUMENTS, trust=trust
        )

    try:
        client, follower = new_client(), new_client()
    except ValueError as error:
        raise click.ClickException(f"{error}; --url or RERANK_URL gives the address") from None
    except OSError as error:
        raise click.ClickException(f"--ca-file {trust}: it can't be used ({error.strerror or error})") from None
    if len(question.documents) <= SPLIT_DOCUMENTS:  # the parts of a larger list are reported one by one
        threading.Thread(target=_follow, args=(follower, request_id, report), daemon=True).start()
    with client:
        try:
            ranking = client.rerank(
                question.query,
                question.documents,
                top_n=question.top_n,
                raw_scores=question.raw_scores,
                request_id=request_id,
                on_progress=lambda done, _: report(done),
            )
        except CallFailedError as error:
            remedy = next((f"; {text}" for kind, text in REMEDIES.items() if isinstance(error, kind)), "")
            raise click.ClickException(f"{error}{remedy}") from None
    return _as_reply(ranking)


def _follow(client: RerankClient, request_id: str, report: Callable[[int], None]) -> None:
    """Report progress until the request ends; without events there is only no progress to see."""
    with contextlib.suppress(CallFailedError):
        for state in client.follow(request_id):
            report(state.scored)


def _as_reply(ranking: Ranking) -> dict[str, Any]:
    return {
        "query": ranking.query,
        "results": [_as_json(each) for each in ranking.results],
        "latency_ms": ranking.latency_ms,
        "model": ranking.model,
        **({"degraded": True} if ranking.degraded else {}),
        **({"warnings": list(ranking.warnings)} if ranking.warnings else {}),
    }


def _as_json(result: Result) -> dict[str, Any]:
    cut = {"truncated": True} if result.truncated else {}
    return {"index": result.index, "score": result.score, "content": result.content, **cut}
