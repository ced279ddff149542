"""`reranking rerank`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from webapp.cli.documents import read_documents
from webapp.cli.settings_flags import SettingsCommand, given_flag, load, load_running
from webapp.domain.errors import RerankError, SetupError
from webapp.domain.types import RerankRequest

if TYPE_CHECKING:
    from reranking_client.config import Trust


def _as_table(reply: dict[str, Any]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for place, each in enumerate(reply["results"], 1):
        text = " ".join(each["content"].split())
        line = f"{place:3}  {each['score']:8.4f}  [{each['index']}]  {text}"
        click.echo(line if len(line) <= width else line[: width - 1] + "…")
    cut = sum(each.get("truncated", False) for each in reply["results"])
    notes = f"{reply['model']}, {reply['latency_ms']:,.0f} ms" + (f", {cut} cut to the model's length" if cut else "")
    for note in (notes, *reply.get("warnings", ())):
        click.echo(click.style(note, dim=True), err=True)


def _as_json(reply: dict[str, Any]) -> None:
    click.echo(json.dumps(reply, ensure_ascii=False, indent=2))


def _as_csv(reply: dict[str, Any]) -> None:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["rank", "index", "score", "content"])
    for place, each in enumerate(reply["results"], 1):
        rows.writerow([place, each["index"], each["score"], each["content"]])
    click.echo(text.getvalue(), nl=False)  # it knows a closed pipe, and terminals that are not UTF-8


_SECONDS = click.FloatRange(0.1)

FORMS = {"table": _as_table, "json": _as_json, "csv": _as_csv}


@click.command(cls=SettingsCommand)
@click.argument("query")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--top-k", type=click.IntRange(0), default=10, show_default=True, help="How many to show; 0: all.")
@click.option("--raw-scores", is_flag=True, help="The model's own numbers instead of 0..1.")
@click.option("--format", "form", type=click.Choice(list(FORMS)), default="table", show_default=True, help="Of output.")
@click.option("--local", is_flag=True, help="In this process, with the prepared model; no service is needed.")
@click.option("--url", envvar="RERANK_URL", help="The service; default: RERANK_URL, else where the stack listens.")
@click.option(
    "--timeout-s", type=_SECONDS, default=300, show_default=True, help="Longest time to wait for the service."
)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificates to trust at an https address, its own for one; default: the system's.",
)
def rerank(
    *, query: str, file: IO[bytes], top_k: int, raw_scores: bool, form: str, local: bool, **service: Any
) -> None:
    """Order the documents in FILE (standard input) by their relevance to QUERY.

    One document a line; or .json, .jsonl, .csv with a field "content", "text" or "document". RERANK_KEY, else the
    first of RERANK_API_KEYS, is the key.

    Examples:
      reranking rerank "how do bees find home" notes.txt
      grep -h . *.md | reranking rerank "restart without loss" --top-k 3
      reranking rerank "bees" corpus.jsonl --local --format csv > ranked.csv
      RERANK_KEY=k reranking rerank "bees" notes.txt --url https://rerank.example
      reranking rerank "bees" notes.txt --url https://trial:8443 --ca-file cert.pem
      reranking rerank "bees" notes.txt --instruction "Find what a beekeeper asks"
    """
    documents = read_documents("standard input" if file is sys.stdin.buffer else file.name, file.read())
    request = RerankRequest(
        query,
        documents,
        originals=(),
        top_n=top_k or None,
        raw_scores=raw_scores,
        instruction=given_flag("instruction") or None,
    )
    with _progress(len(documents)) as report:
        reply = _locally(request, report) if local else _remotely(request, report, **service)
    FORMS[form](reply)


def _remotely(
    request: RerankRequest, report: Callable[[int], None], *, url: str, timeout_s: float, ca_file: str | None
) -> dict[str, Any]:
    try:
        from webapp.cli.remote import ask  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SetupError(
            "this command needs the client; install dist/reranking_client-*.whl of scripts/build-wheel, too"
        ) from error

    key = os.environ.get("RERANK_KEY", "")
    trust: Trust = ca_file
    if not url or not key:
        settings = load_running()
        from contracts.api_keys import own_key  # noqa: PLC0415
        from webapp.stack.local_client import url_of  # noqa: PLC0415
        from webapp.stack.tls import trust_own  # noqa: PLC0415

        # The own key is sent to our own service alone, and our certificate is trusted there alone.
        key = key or ("" if url else own_key(settings.own_key))
        trust = ca_file or (None if url else trust_own(settings))
        if not url:
            url, os.environ["no_proxy"] = url_of(settings), "*"  # it runs here, whatever address it listens on
    ranking = ask(url, key, request, timeout_s=timeout_s, trust=trust, report=report)
    ranked = ((each.index, each.score, each.truncated) for each in ranking.results)
    notes = {"degraded": ranking.degraded, "warnings": list(ranking.warnings)}
    said = {name: note for name, note in notes.items() if note}
    return _reply(request, ranked, latency_ms=ranking.latency_ms, model=ranking.model, **said)


def _locally(request: RerankRequest, report: Callable[[int], None]) -> dict[str, Any]:
    from webapp.servers.local import local_reranker  # noqa: PLC0415

    try:
        with local_reranker(load()) as reranker:
            result = reranker.rerank(request, report)
    except RerankError as error:
        raise click.ClickException(error.message) from None
    ranked = zip(result.order, result.scores, result.truncated, strict=True)
    said = {"warnings": list(result.request.warnings)} if result.request.warnings else {}
    return _reply(request, ranked, latency_ms=round(result.latency_ms, 3), model=result.model, **said)


def _reply(request: RerankRequest, ranked: Iterable[tuple[int, float, bool]], **facts: object) -> dict[str, Any]:
    """Return a reply in the API's form.

    Args:
        request: what was asked.
        ranked: index and score of each document, and whether it was cut.
        facts: the reply's other fields.
    """
    results = [
        {"index": index, "score": score, "content": request.documents[index], **({"truncated": True} if cut else {})}
        for index, score, cut in ranked
    ]
    return {"query": request.query, "results": results, **facts}


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield what draws a progress bar, if stderr is a terminal; it may be called from any thread."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label="scored", file=sys.stderr, show_pos=True) as bar:

        def draw(scored: int) -> None:
            bar.update(max(0, min(scored, total) - bar.pos))

        yield draw
        draw(total)
