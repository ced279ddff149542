"""A real Prometheus with the configuration that ships, for tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Self

import requests
from running import PATIENCE_S, free_port, wait_for

SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"


class Prometheus:
    """Scrapes one service once a second."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        text = (SHIPPED / "prometheus.yml").read_text()
        changes = (("127.0.0.1:8080", target), (": 15s", ": 1s"), ("rules.yml", str(SHIPPED / "rules.yml")))
        for shipped, wanted in changes:
            assert shipped in text
            text = text.replace(shipped, wanted)
        (folder / "prometheus.yml").write_text(text)
        self._folder = folder

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                str(shutil.which("prometheus")),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'tsdb'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=error",
            ]
        )
        try:
            wait_for(self._scraped, "Prometheus scrapes the service")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def _scraped(self) -> bool:
        try:
            if requests.get(f"{self.url}/-/ready", timeout=PATIENCE_S).status_code != 200:
                return False
            return self.value('up{job="reranking"}') == 1
        except requests.ConnectionError:
            return False

    def ask(self, query: str) -> list[dict]:
        """Series of an instant query."""
        reply = requests.get(f"{self.url}/api/v1/query", {"query": query}, timeout=PATIENCE_S).json()
        assert reply["status"] == "success", (query, reply)
        return reply["data"]["result"]

    def value(self, query: str) -> float | None:
        """Return the value of the only series, or None without one."""
        series = self.ask(query)
        assert len(series) < 2, series
        return float(series[0]["value"][1]) if series else None
