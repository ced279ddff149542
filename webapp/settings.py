"""Every tunable, its unit and its default, read from RERANK_<NAME>; contradictions refuse to start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from webapp.errors import SetupError

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

LONGEST_SOCKET_PATH_BYTES = 100
"""The kernel's limit for a unix socket is 108, our longest name below the state directory is taken off in `paths`."""

# The timeout ladder: each layer waits longer than the one inside it, so that the innermost answers.
PROXY_GRACE_S = 10
SHUTDOWN_GRACE_S = 15
STOP_GRACE_S = 20


class Settings(BaseSettings):
    """What an operator can choose."""

    model_config = SettingsConfigDict(env_prefix="RERANK_", frozen=True, extra="ignore", protected_namespaces=())

    host: str = Field(default="127.0.0.1", description="Address nginx listens on.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port nginx listens on.")
    state_dir: Path = Field(default=Path("var"), description="Models, logs, sockets and rendered configuration.")

    model: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="Hub id or local directory of a CrossEncoder or SentenceTransformer.",
    )
    engine: Literal["auto", "native", "openvino", "torch", "stub"] = Field(
        default="auto", description="What computes the scores; auto: native or openvino, whichever is faster here."
    )
    precision: Literal["auto", "int8", "bf16", "fp32"] = Field(
        default="auto",
        description="auto: the first of int8, bf16, fp32 that is fast here and passes the gate.",
    )
    max_length_tokens: int = Field(default=0, ge=0, le=131_072, description="Longest pair; 0 is the model's own limit.")

    gate_max_score_error: float = Field(default=0.25, ge=0, le=1, description="Largest score error of bf16 or int8.")
    gate_mean_score_error: float = Field(default=0.05, ge=0, le=1, description="Mean score error of bf16 or int8.")
    gate_min_tau: float = Field(default=0.9, ge=-1, le=1, description="Least mean Kendall tau of bf16 or int8 to fp32.")
    gate_min_top10_overlap: float = Field(default=0.85, ge=0, le=1, description="Least mean overlap of the ten best.")

    workers: int = Field(default=1, ge=1, le=256, description="gunicorn workers; each adds its own compiled model.")
    engine_threads: int = Field(
        default=0, ge=0, le=1024, description="Engine threads a worker; 0: as prepare measured, at most the cores."
    )
    batch_tokens: int = Field(
        default=0, ge=0, le=1_048_576, description="Padded tokens a batch may hold; 0: as prepare measured."
    )

    cache_mb: int = Field(default=32, ge=0, le=65_536, description="MiB of pair scores a worker keeps; 0 keeps none.")

    request_timeout_s: int = Field(default=300, ge=1, le=86_400, description="Longest time one request may take.")
    max_ongoing_requests: int = Field(
        default=512, ge=1, le=65_536, description="Requests at work in a worker; more are refused with 503."
    )
    max_documents: int = Field(default=10_000, ge=1, le=1_000_000, description="Documents a request may hold.")
    strict_model: bool = Field(
        default=False, description="Refuse requests that name another model than the one served."
    )
    max_body_mb: int = Field(
        default=32, ge=1, le=1024, description="MiB a request body may hold, in nginx and in the app."
    )

    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Comma-separated; each call must carry one of them. Empty: open to all.",
    )
    events: bool = Field(default=True, description="Tell the pusher, and so the dashboard, of requests and workers.")
    events_endpoint: str = Field(
        default="",
        pattern=r"^((ipc|tcp)://.+)?$",
        description="ZeroMQ address of the pusher, ipc:// or tcp://; default: a socket in the state directory.",
    )
    events_text: bool = Field(default=False, description="Let events carry queries, to be read on dashboards.")
    colour: str = Field(default="", pattern="^[a-z0-9-]{0,20}$", description="Release slot, shown beside its workers.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "json", "human"] = Field(
        default="auto", description="auto is human on a terminal, else json."
    )

    @field_validator("state_dir")
    @classmethod
    def _absolute_and_short_enough(cls, value: Path) -> Path:
        path = value.expanduser().absolute()
        if len(str(path / "run" / "supervisor.sock").encode()) > LONGEST_SOCKET_PATH_BYTES:
            raise ValueError(
                "its path is too long for the unix sockets in it; choose a shorter one, such as /tmp/rerank"
            )
        return path

    @property
    def model_is_default(self) -> bool:
        """Whether nobody named a model, so that the embedded one may stand in."""
        return "model" not in self.model_fields_set

    @property
    def max_body_bytes(self) -> int:
        """The body limit in bytes."""
        return self.max_body_mb * 1024 * 1024

    @property
    def api_key_list(self) -> list[str]:
        """The keys, one by one."""
        return [key.strip() for key in self.api_keys.get_secret_value().split(",") if key.strip()]

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files; private to the user."""
        return self.state_dir / "run"

    @property
    def log_dir(self) -> Path:
        """One file a program, written and rotated by supervisor."""
        return self.state_dir / "log"

    @property
    def models_dir(self) -> Path:
        """Prepared artifacts and downloaded models."""
        return self.state_dir / "models"

    @property
    def pusher_socket(self) -> Path:
        """Where the pusher listens for nginx."""
        return self.run_dir / "pusher.sock"

    @property
    def events_address(self) -> str:
        """Where the pusher listens for workers."""
        return self.events_endpoint or f"ipc://{self.run_dir / 'events.sock'}"

    @property
    def webapp_socket(self) -> Path:
        """Where gunicorn listens for nginx."""
        return self.run_dir / "webapp.sock"


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        SetupError: a value is wrong; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            name = "RERANK_" + "_".join(map(str, problem["loc"])).upper()
            problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ')} (it is {problem['input']!r})")
        raise SetupError("; ".join(problems)) from error
