"""Ask a running service by its client, and follow the request's progress meanwhile."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from functools import partial

import click
from reranking_client import (
    CallFailedError,
    OutOfTimeError,
    Ranking,
    RerankClient,
    Retries,
    UnreachableError,
    UntrustedError,
)
from reranking_client.config import Trust

from webapp.domain.types import RerankRequest

RETRIES = Retries(delays_s=(0.1, 0.4, 1.6))
"""Long enough for a restart, and no longer: a user waits at the terminal."""

SPLIT_DOCUMENTS = 1000

REMEDIES = {
    UntrustedError: "--ca-file names a certificate to trust",
    UnreachableError: "--url or RERANK_URL says where",
    OutOfTimeError: "--timeout-s waits longer",
}


def ask(
    url: str, key: str, request: RerankRequest, *, timeout_s: float, trust: Trust, report: Callable[[int], None]
) -> Ranking:
    """Ask, and return the answer.

    Args:
        url: the service's address, the part in front of `/rerank`.
        key: an API key; empty: none.
        request: query and documents.
        timeout_s: longest wait.
        trust: certificates for https: a file, a context, or None for the system's.
        report: called with the number of documents scored, if the service reports it.

    Raises:
        click.ClickException: there was no answer, or an error.
    """
    request_id = f"cli-{uuid.uuid4()}"
    new_client = partial(
        RerankClient, url, key=key, timeout_s=timeout_s, retries=RETRIES, split_documents=SPLIT_DOCUMENTS, trust=trust
    )
    try:
        client, follower = new_client(), new_client()
    except ValueError as error:
        raise click.ClickException(f"{error}; --url or RERANK_URL gives the address") from None
    except OSError as error:
        raise click.ClickException(f"--ca-file {trust}: it can't be used ({error.strerror or error})") from None
    if len(request.documents) <= SPLIT_DOCUMENTS:  # the parts of a larger list are reported one by one
        threading.Thread(target=_follow, args=(follower, request_id, report), daemon=True).start()
    try:
        with client:
            return client.rerank(
                request.query,
                request.documents,
                top_n=request.top_n,
                raw_scores=request.raw_scores,
                options={"instruction": request.instruction} if request.instruction else None,
                request_id=request_id,
                on_progress=lambda done, _: report(done),
            )
    except CallFailedError as error:
        remedy = next((f"; {text}" for kind, text in REMEDIES.items() if isinstance(error, kind)), "")
        raise click.ClickException(f"{error}{remedy}") from None


def _follow(client: RerankClient, request_id: str, report: Callable[[int], None]) -> None:
    """Report progress until the request ends; without events there is only no progress to see."""
    with contextlib.suppress(CallFailedError):
        for state in client.follow(request_id):
            report(state.scored)
