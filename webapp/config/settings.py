"""Every tunable, its unit and its default; contradictions refuse to start. `sources` says where values come from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from webapp.config.paths import STATE, Paths
from webapp.config.sources import Sources, gather
from webapp.config.validators import (
    check_networks,
    check_origins,
    check_path,
    check_secrets,
    check_stacks,
    check_tls,
    listed,
)
from webapp.domain.errors import SetupError

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

LONGEST_SOCKET_PATH_BYTES = 99
"""Of supervisor's socket: the kernel takes 107, and supervisor first makes it with its pid behind a dot."""

# The timeout ladder: each layer waits longer than the one inside it, so that the innermost answers.
PROXY_GRACE_S = 10
SHUTDOWN_GRACE_S = 15
STOP_GRACE_S = 20


class Settings(Paths, BaseModel):
    """What an operator can choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    host: str = Field(default="127.0.0.1", description="Address nginx listens on.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port nginx listens on.")
    state_dir: Path = Field(
        default=STATE, validate_default=True, description="Models, logs, sockets, configuration; private to the user."
    )
    ops_group: str = Field(
        default="",
        description="System group whose members may use supervisorctl on the running service; empty: its user alone.",
    )

    model: str = Field(
        default=DEFAULT_MODEL,
        min_length=1,
        description="Hub id or local directory of a CrossEncoder or SentenceTransformer.",
    )
    engine: Literal["auto", "native", "openvino", "torch", "stub"] = Field(
        default="auto",
        description="What computes the scores; auto: native or openvino, compared on this machine while it is idle.",
    )
    precision: Literal["auto", "int8", "bf16", "fp32"] = Field(
        default="auto",
        description="auto: the first of int8, bf16, fp32 that is fast here and passes the gate.",
    )
    max_length_tokens: int = Field(default=0, ge=0, le=131_072, description="Longest pair; 0 is the model's own limit.")

    gate_max_score_error: float = Field(
        default=0.25, ge=0, le=1, description="Largest score error of bf16 or int8, a share of the scale."
    )
    gate_mean_score_error: float = Field(
        default=0.05, ge=0, le=1, description="Mean score error of bf16 or int8, a share of the scale."
    )
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
    redis_url: SecretStr = Field(
        default=SecretStr(""),
        description="redis://, rediss:// or unix:// address of a Redis for shared pair scores and counts of limits.",
    )

    request_timeout_s: int = Field(default=300, ge=1, le=86_400, description="Longest time one request may take.")
    max_ongoing_requests: int = Field(
        default=512, ge=1, le=65_536, description="Requests at work in a worker; more are refused with 503."
    )
    max_queued_pairs: int = Field(
        default=50_000, ge=1, description="Documents that wait in a worker; requests beyond are refused with 503."
    )
    max_queued_tokens: int = Field(
        default=16_000_000, ge=1, description="Tokens that wait in a worker, as far as is known; as above."
    )
    degraded: Literal["refuse", "lexical"] = Field(
        default="refuse",
        description="While the model fails: refuse with 503, or rank by BM25 and say so in the reply.",
    )
    engine_stall_s: float = Field(
        default=60, ge=1, le=3600, description="An engine thread at one batch for longer hangs: the worker is replaced."
    )
    max_rss_mb: int = Field(
        default=0, ge=0, le=1_048_576, description="MiB a worker may take before it is replaced; 0: any."
    )
    max_documents: int = Field(default=10_000, ge=1, le=1_000_000, description="Documents a request may hold.")
    max_batch_requests: int = Field(
        default=1000, ge=1, le=1_000_000, description="Requests a call of /rerank/batch may hold."
    )
    strict_model: bool = Field(
        default=False, description="Refuse requests that name another model than the one served."
    )
    served_model_name: str = Field(
        default="",
        description="Names of the model beside its own, comma-separated; a reply says the first unless asked for one.",
    )
    max_body_mb: int = Field(
        default=32, ge=1, le=1024, description="MiB a request body may hold, in nginx and in the app."
    )

    max_body_values: int = Field(
        default=2_000_000,
        ge=1000,
        le=100_000_000,
        description="Values and names that a request body's JSON may hold; more are refused with 413.",
    )
    max_body_memory_mb: int = Field(
        default=0,
        ge=0,
        le=1_048_576,
        description="MiB that large bodies at work may take, parsed, in all processes; more are refused with 503."
        " 0: 512 or a quarter of the memory, whichever is less. One body of RERANK_MAX_BODY_MB always fits.",
    )

    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Comma-separated; each call must carry one of them. Empty: open to all.",
    )
    operator_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Keys that see everything on the dashboard, comma-separated. Empty: every key does.",
    )
    dashboard_origins: str = Field(
        default="",
        description="Origins whose pages may connect to the dashboard, comma-separated. Empty: the same origin only.",
    )
    api_keys_file: str = Field(
        default="", description="Path of a file of named, hashed keys, as `reranking keys add NAME` makes them."
    )
    requests_per_minute: int = Field(
        default=0, ge=0, le=1_000_000, description="Requests a caller (a key, else an address) may make; 0: any."
    )
    documents_per_minute: int = Field(
        default=0, ge=0, le=1_000_000_000, description="Documents a caller may have ranked in a minute; 0: any."
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose pages may call the API, comma-separated, as https://app.example; empty: none.",
    )
    tls: Literal["", "self-signed"] = Field(
        default="", description="self-signed: nginx makes its own certificate, for trials."
    )
    tls_cert: str = Field(default="", description="Certificate (with its chain) for nginx, PEM: serves https.")
    tls_key: str = Field(default="", description="Its private key, PEM, without a passphrase.")
    hsts_s: int = Field(
        default=0, ge=0, description="Seconds for which browsers shall insist on https; 0: they are not told."
    )
    plain_port: int = Field(
        default=0, ge=0, le=65535, description="Port that sends plain http to https; 0: there is none."
    )

    stacks: str = Field(
        default="",
        description="Stacks on other machines that `reranking balance` divides requests over, comma-separated, as"
        " http://10.0.0.7:8080.",
    )
    stacks_ca: str = Field(default="", description="Certificates by which https stacks are trusted, PEM.")
    balancers: str = Field(
        default="",
        description="Addresses or networks of balancers, comma-separated: the caller's address is what they say.",
    )

    connections_per_address: int = Field(
        default=0,
        ge=0,
        le=1_048_576,
        description="Connections an address may have at nginx; 0: half of what one of its processes can hold.",
    )

    events: bool = Field(default=True, description="Tell the pusher, and so the dashboard, of requests and workers.")
    events_endpoint: str = Field(
        default="",
        pattern=r"^((ipc|tcp)://.+)?$",
        description="ZeroMQ address of the pusher, ipc:// or tcp://; default: a socket in the state directory.",
    )
    events_text: bool = Field(default=False, description="Let events carry queries, to be read on dashboards.")
    otel_endpoint: str = Field(
        default="",
        pattern=r"^(https?://.+)?$",
        description="Address of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of each request.",
    )
    color: str = Field(
        default="",
        pattern="^[a-z0-9-]{0,20}$",
        description="Color of this release, shown wherever it answers; a stack sets it for its programs.",
    )
    release: int = Field(default=0, ge=0, description="Number of this release; set by `reranking deploy`.")
    faster_artifact: str = Field(
        default="",
        pattern="^[A-Za-z0-9.-]*$",
        description="Artifact that the comparison of engines found faster; set by the release that it makes.",
    )

    log_to: Literal["files", "stdout"] = Field(
        default="files", description="files in the state directory, or stdout alone, as for a container."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "json", "human"] = Field(
        default="auto", description="auto is human on a terminal, else json."
    )

    @model_validator(mode="after")
    def _largest_request_fits(self) -> Settings:
        if self.max_queued_pairs < self.max_documents:
            raise ValueError(
                f"RERANK_MAX_QUEUED_PAIRS ({self.max_queued_pairs}) is below RERANK_MAX_DOCUMENTS"
                f" ({self.max_documents}), so that the largest requests would never come in; raise it"
            )
        return self

    @model_validator(mode="after")
    def _what_events_carry_is_sent(self) -> Settings:
        if self.events_text and not self.events:
            raise ValueError("RERANK_EVENTS_TEXT is on but RERANK_EVENTS is off, so that nothing is told; choose one")
        return self

    @field_validator(
        "api_keys",
        "operator_keys",
        "dashboard_origins",
        "cors_origins",
        "stacks",
        "balancers",
        "served_model_name",
        mode="before",
    )
    @classmethod
    def _a_list_is_joined(cls, value: Any) -> Any:
        """A file may have a list where a variable has commas."""
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _the_doors_are_sound(self) -> Settings:
        check_tls(self.tls, self.tls_cert, self.tls_key, self.hsts_s, (self.port, self.plain_port))
        # Not by a field's validator: what that refuses is shown.
        check_secrets(api_keys=self.api_keys.get_secret_value(), redis_url=self.redis_url.get_secret_value())
        check_stacks(self.stacks, self.stacks_ca)
        return self

    _origins_are_origins = field_validator("cors_origins")(check_origins)
    _balancers_are_addresses = field_validator("balancers")(check_networks)
    _certificates_can_be_named = field_validator("tls_cert", "tls_key", "stacks_ca")(check_path)

    @field_validator("api_keys_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute()) if value else ""

    @field_validator("state_dir")
    @classmethod
    def _absolute_and_short_enough(cls, value: Path) -> Path:
        path = value.expanduser().absolute()
        check_path(str(path))
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
    def has_tls(self) -> bool:
        """Whether nginx speaks https."""
        return bool(self.tls or self.tls_cert)

    @property
    def cors_origin_list(self) -> list[str]:
        """The origins, one by one."""
        return listed(self.cors_origins)


def load_settings(flags: Collection[str] = ()) -> Settings:
    """Settings from the environment and the file.

    Args:
        flags: names of those that the command line has put into the environment.

    Raises:
        SetupError: a value is wrong, or something is no setting; the message names the place.
    """
    return read_settings(gather(Settings.model_fields, flags))


def read_settings(sources: Sources) -> Settings:
    """Settings from what was found.

    Raises:
        SetupError: a value is wrong; the message names the place.
    """
    try:
        return Settings(**sources.values())
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            message = problem["msg"].removeprefix("Value error, ")
            if not problem["loc"]:  # of several settings; the message names them
                problems.append(message)
                continue
            name = str(problem["loc"][0])
            if problem["type"] == "string_type" and sources.origin(name) == "file":
                message += "; put quotes around it"
            seen = "" if is_secret(name) else f" (it is {problem['input']!r})"
            problems.append(f"{sources.place(name)}: {message}{seen}")
        raise SetupError("; ".join(problems)) from None  # pydantic's own words show the input, secrets too


def is_secret(name: str) -> bool:
    """Whether a setting's value is shown to nobody."""
    return Settings.model_fields[name].annotation is SecretStr
