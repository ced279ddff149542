"""A client that asks all the time, counted beside a deploy and a rollback. Run by scripts/demo-release."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Self

from webapp.config.settings import load_settings

EVERY_S, TOLD_EVERY_S = 0.02, 1.0


class Client:
    """One kept connection, a request every 20 ms, each with a text that no cache knows."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.answered: Counter[str] = Counter()
        self.failed = 0
        self._stop = threading.Event()
        self._connection = http.client.HTTPConnection(host, port, timeout=60)
        self._headers = {"X-Api-Key": key} if key else {}
        self._threads = [threading.Thread(target=self._ask), threading.Thread(target=self._tell)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        print(self.line())

    def line(self) -> str:
        """Return the counter."""
        by = ", ".join(f"{color} {count}" for color, count in sorted(self.answered.items()))
        return f"{'':>44}client: {self.answered.total()} answered ({by}), {self.failed} failed"

    def _ask(self) -> None:
        while not self._stop.wait(EVERY_S):
            text = f"question {time.monotonic_ns()}"
            body = json.dumps({"query": text, "documents": [{"content": "Bees find home."}, {"content": text}]})
            try:
                self._connection.request("POST", "/rerank", body, self._headers)
                reply = self._connection.getresponse()
                reply.read()
                if reply.status == 200:
                    self.answered[reply.getheader("X-Deployment-Color", "no color")] += 1
                else:
                    self.failed += 1
            except (OSError, http.client.HTTPException):
                self.failed += 1
                self._connection.close()

    def _tell(self) -> None:
        while not self._stop.wait(TOLD_EVERY_S):
            print(self.line(), flush=True)


def main() -> None:
    settings = load_settings()
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 - compared, not bound
    with Client(host, settings.port, settings.own_key.read_text() if settings.own_key.exists() else "") as client:
        for command in (["deploy", "--again", *sys.argv[1:]], ["rollback"]):
            time.sleep(TOLD_EVERY_S)
            print(f"$ reranking {' '.join(command)}", flush=True)
            if subprocess.run([sys.executable, "-m", "webapp", *command], check=False).returncode:
                break
        time.sleep(TOLD_EVERY_S)
    raise SystemExit(client.failed > 0)


if __name__ == "__main__":
    main()
