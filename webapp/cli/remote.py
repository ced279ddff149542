"""Asks a running service, and follows its own request meanwhile."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

import click

FOLLOW_TIMEOUT_S = 10.0


def rerank(
    url: str,
    key: str,
    body: dict[str, Any],
    *,
    timeout_s: float,
    tell: Callable[[int], None],
    trust: ssl.SSLContext | None = None,
) -> Any:
    """Send one request in our own format and return the reply.

    Args:
        url: of the service; anything in front of `/rerank`.
        key: an API key; empty: none.
        body: the request.
        timeout_s: longest time to wait.
        tell: told how many documents are scored, where the service says so.
        trust: which certificates; None: those that the machine trusts.

    Raises:
        click.ClickException: nobody answered, or a refusal.
    """
    base, headers = url.rstrip("/"), {"X-Request-Id": f"cli-{uuid.uuid4()}", "Content-Type": "application/json"}
    if urllib.parse.urlsplit(base).scheme not in {"http", "https"}:
        raise click.ClickException(f"{url} is no http:// or https:// address; --url or RERANK_URL gives one")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    threading.Thread(target=_follow, args=(base, headers, tell, trust), daemon=True).start()
    try:
        request = urllib.request.Request(f"{base}/rerank", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout_s, context=trust) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise click.ClickException(_refusal(base, error)) from None
    except TimeoutError:
        raise click.ClickException(f"{base} gave no answer in {timeout_s:g} s; --timeout-s waits longer") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise click.ClickException(f"{base} can't be reached ({reason}); --url or RERANK_URL says where") from None


def _refusal(base: str, error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.load(error)["error"]
        again = error.headers.get("Retry-After")
        return f"{base} says {error.code}: {told['message']}" + (f"; try again in {again} s" if again else "")
    return f"{base} says {error.code}"


def _follow(base: str, headers: dict[str, str], tell: Callable[[int], None], trust: ssl.SSLContext | None) -> None:
    """Read the request's events until it ended; without them there is merely no progress to see."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        request = urllib.request.Request(f"{base}/progress/{headers['X-Request-Id']}", headers=headers)
        with urllib.request.urlopen(request, timeout=FOLLOW_TIMEOUT_S, context=trust) as events:
            for line in events:
                if line.startswith(b"data: "):
                    state = json.loads(line[6:])
                    tell(int(state["scored"]))
                    if state["status"] != "running":
                        return
