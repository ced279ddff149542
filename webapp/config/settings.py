"""All settings: type, unit, default, limits. Contradictions refuse to start. `sources` says where values come from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from webapp.config.paths import STATE, Paths
from webapp.config.sources import Sources, gather
from webapp.config.validators import (
    check_events,
    check_networks,
    check_origins,
    check_path,
    check_pusher_url,
    check_secrets,
    check_stacks,
    check_tls,
    listed,
)
from webapp.domain.errors import SetupError

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"

LONGEST_SOCKET_PATH_BYTES = 99
"""Longest path of supervisor's socket: the kernel takes 107, and supervisor first appends a dot and its pid."""

# The timeout ladder: each layer waits longer than the one inside it, so that the innermost answers.
PROXY_GRACE_S = 10
SHUTDOWN_GRACE_S = 15
STOP_GRACE_S = 20


def setting(default: Any, description: str, **limits: Any) -> Any:
    """Return the declaration of a setting. Its flag, variable, place in the file and reference follow from it."""
    return Field(default=default, description=description, **limits)


def reloadable(default: Any, description: str, **limits: Any) -> Any:
    """Return the declaration of a setting that new workers of the same master take up, so a deploy reloads in place."""
    return setting(default, description, json_schema_extra={"reload": True}, **limits)


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


def _usable_state_dir(path: Path) -> Path:
    path = path.expanduser().absolute()
    check_path(str(path))
    if len(str(path / "run" / "supervisor.sock").encode()) > LONGEST_SOCKET_PATH_BYTES:
        raise ValueError("its path is too long for the unix sockets in it; choose a shorter one, such as /tmp/rerank")
    return path


CommaSeparated = Annotated[str, BeforeValidator(_joined)]
"""Text with commas; a file may have a list in its place."""

CommaSeparatedSecret = Annotated[SecretStr, BeforeValidator(_joined)]

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(Paths, BaseModel):
    """What an operator can choose: one declaration a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    host: str = setting("127.0.0.1", "Address nginx listens on.")
    port: int = setting(8080, "Port nginx listens on.", ge=1, le=65535)
    state_dir: Annotated[Path, AfterValidator(_usable_state_dir)] = setting(
        STATE, "Models, logs, sockets, configuration; private to the user."
    )
    ops_group: str = setting(
        "", "System group whose members may use supervisorctl on the running service; empty: its user alone."
    )

    model: str = setting(
        DEFAULT_MODEL, "Hub id or local directory of a CrossEncoder or SentenceTransformer.", min_length=1
    )
    engine: Literal["auto", "native", "openvino", "torch", "stub"] = setting(
        "auto",
        "What computes the scores; auto: torch on an NVIDIA card, else native or openvino, compared while idle.",
    )
    precision: Literal["auto", "int8", "fp16", "bf16", "fp32"] = setting(
        "auto", "auto: the first of int8 (on a card fp16), bf16, fp32 that is fast here and passes the gate."
    )
    max_length_tokens: int = setting(0, "Longest pair, in tokens; 0: the model's own limit.", ge=0, le=131_072)

    recipe: str = setting(
        "", "A decoder's words and score rule: the name of a recipe, or a file of one (.toml); empty: the model tells."
    )

    instruction: str = setting(
        "", "For a model that takes one: the instruction of requests that have none; empty: the model's own default."
    )

    gate_max_score_error: Share = setting(0.25, "Largest score error of less than fp32, as a share of the scale.")
    gate_mean_score_error: Share = setting(0.05, "Largest mean score error of less than fp32, as a share of the scale.")
    gate_min_tau: float = setting(0.9, "Least mean Kendall tau of less than fp32 to fp32.", ge=-1, le=1)
    gate_min_top10_overlap: Share = setting(0.85, "Least mean overlap of the ten best.")

    workers: int = reloadable(
        1, "gunicorn workers; each adds its own compiled model. On cards, one a card.", ge=1, le=256
    )
    engine_threads: int = reloadable(
        0, "Engine threads a worker; 0: as prepare measured, at most the cores.", ge=0, le=1024
    )
    batch_tokens: int = reloadable(
        0, "Tokens a batch may hold, padding counted; 0: as prepare measured.", ge=0, le=1_048_576
    )

    cache_mb: int = reloadable(32, "MiB of pair scores a worker keeps; 0 keeps none.", ge=0, le=65_536)
    redis_url: SecretStr = setting(
        SecretStr(""), "redis://, rediss:// or unix:// address of a Redis for shared pair scores and counts of limits."
    )

    request_timeout_s: int = setting(300, "Longest time one request may take.", ge=1, le=86_400)
    max_ongoing_requests: int = reloadable(
        512, "Requests at work in a worker; more are refused with 503.", ge=1, le=65_536
    )
    max_queued_pairs: int = reloadable(
        50_000, "Documents that wait in a worker; requests beyond are refused with 503.", ge=1
    )
    max_queued_tokens: int = reloadable(
        16_000_000, "Tokens that wait in a worker, as far as counted; requests beyond are refused with 503.", ge=1
    )
    degraded: Literal["refuse", "lexical"] = reloadable(
        "refuse", "While the model fails: refuse with 503, or rank by BM25 and say so in the reply."
    )
    engine_stall_s: float = reloadable(
        60,
        "Longest time for one batch; beyond it the engine thread has hung, and the worker is replaced.",
        ge=1,
        le=3600,
    )
    max_rss_mb: int = reloadable(0, "MiB a worker may take before it is replaced; 0: no limit.", ge=0, le=1_048_576)
    max_documents: int = reloadable(10_000, "Documents a request may hold.", ge=1, le=1_000_000)
    max_batch_requests: int = reloadable(1000, "Requests a call of /rerank/batch may hold.", ge=1, le=1_000_000)
    strict_model: bool = reloadable(False, "Refuse requests that name another model than the one served.")
    served_model_name: CommaSeparated = reloadable(
        "", "More names of the model, comma-separated; a reply has the first, unless the request named one."
    )
    max_body_mb: int = setting(32, "MiB a request body may hold, in nginx and in the app.", ge=1, le=1024)

    max_body_values: int = reloadable(
        2_000_000,
        "Values and names that a request body's JSON may hold; more are refused with 413.",
        ge=1000,
        le=100_000_000,
    )
    max_body_memory_mb: int = reloadable(
        0,
        "MiB that large bodies at work may take, parsed, in all processes; more are refused with 503. 0: 512 or a"
        " quarter of the memory, whichever is less. One body of RERANK_MAX_BODY_MB always fits.",
        ge=0,
        le=1_048_576,
    )

    api_keys: CommaSeparatedSecret = setting(
        SecretStr(""), "Comma-separated; each call must carry one of them. Empty: open to all."
    )
    operator_keys: CommaSeparatedSecret = setting(
        SecretStr(""), "Keys that see everything on the dashboard, comma-separated. Empty: every key does."
    )
    dashboard_origins: CommaSeparated = setting(
        "", "Origins whose pages may connect to the dashboard, comma-separated. Empty: the same origin only."
    )
    api_keys_file: Annotated[str, AfterValidator(_absolute)] = setting(
        "", "Path of a file of named, hashed keys, as `reranking keys add NAME` makes them."
    )
    requests_per_minute: int = setting(
        0, "Requests a minute of one caller (a key, else an address); 0: no limit.", ge=0, le=1_000_000
    )
    documents_per_minute: int = setting(0, "Documents a minute of one caller; 0: no limit.", ge=0, le=1_000_000_000)
    cors_origins: Annotated[CommaSeparated, AfterValidator(check_origins)] = setting(
        "", "Origins whose pages may call the API, comma-separated, as https://app.example; empty: none."
    )
    tls: Literal["", "self-signed"] = setting("", "self-signed: nginx makes its own certificate, for trials.")
    tls_cert: Annotated[str, AfterValidator(check_path)] = setting(
        "", "Certificate (with its chain) for nginx, PEM: serves https."
    )
    tls_key: Annotated[str, AfterValidator(check_path)] = setting("", "Its private key, PEM, without a passphrase.")
    hsts_s: int = setting(0, "Seconds for which browsers use https only (HSTS); 0: no such header.", ge=0)
    plain_port: int = setting(0, "Port that redirects plain http to https; 0: none.", ge=0, le=65535)
    acme_webroot: Annotated[str, AfterValidator(_absolute), AfterValidator(check_path)] = setting(
        "", "Folder that an ACME client such as certbot writes answers to, for nginx to serve; empty: none."
    )

    stacks: CommaSeparated = setting(
        "",
        "Stacks on other machines that `reranking balance` divides requests over, comma-separated, as http://10.0.0.7:8080.",
    )
    stacks_ca: Annotated[str, AfterValidator(check_path)] = setting("", "Certificates to trust for https stacks, PEM.")
    balancers: Annotated[CommaSeparated, AfterValidator(check_networks)] = setting(
        "", "Addresses or networks of balancers, comma-separated: they name the client's address."
    )

    connections_per_address: int = setting(
        0,
        "Connections an address may have at nginx; 0: half of what one of its processes can hold.",
        ge=0,
        le=1_048_576,
    )

    events: bool = reloadable(True, "Send events of requests and workers to the pusher, and so to the dashboard.")
    events_endpoint: str = setting(
        "",
        "Where a pusher elsewhere hears events, ipc://path or tcp://host:port; empty: the stack's own pusher.",
        pattern=r"^((ipc|tcp)://.+)?$",
    )
    events_key: SecretStr = setting(
        SecretStr(""), "Secret of a pusher elsewhere and of all that send to it by tcp://, 32 characters or more."
    )
    pusher_url: Annotated[str, AfterValidator(check_pusher_url)] = setting(
        "", "Pusher elsewhere (reranking pusher), as http://10.0.0.5:8081; empty: the stack runs its own."
    )
    events_text: bool = reloadable(False, "Put queries into events, so that dashboards show them.")
    otel_endpoint: str = setting(
        "",
        "Address of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of each request.",
        pattern=r"^(https?://.+)?$",
    )
    color: str = setting(
        "",
        "Color of this release, shown wherever it answers; a stack sets it for its programs.",
        pattern="^[a-z0-9-]{0,20}$",
    )
    release: int = setting(0, "Number of this release; set by `reranking deploy`.", ge=0)
    faster_artifact: str = setting(
        "",
        "Artifact that the comparison of engines found faster; set by the release that it makes.",
        pattern="^[A-Za-z0-9.-]*$",
    )

    log_to: Literal["files", "stdout"] = setting(
        "files", "files in the state directory, or stdout alone, as for a container."
    )
    log_level: Literal["debug", "info", "warning", "error"] = reloadable("info", "Least level that is logged.")
    log_format: Literal["auto", "json", "human"] = setting("auto", "auto is human on a terminal, else json.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Settings:
        if self.max_queued_pairs < self.max_documents:
            raise ValueError(
                f"RERANK_MAX_QUEUED_PAIRS ({self.max_queued_pairs}) is below RERANK_MAX_DOCUMENTS"
                f" ({self.max_documents}), so that the largest requests would never come in; raise it"
            )
        if self.events_text and not self.events:
            raise ValueError("RERANK_EVENTS_TEXT is on but RERANK_EVENTS is off, so that no event is sent; choose one")
        check_tls(self.tls, self.tls_cert, self.tls_key, self.hsts_s, (self.port, self.plain_port))
        # Not in a field's validator: the error of that shows the value.
        check_secrets(api_keys=self.api_keys.get_secret_value(), redis_url=self.redis_url.get_secret_value())
        check_stacks(self.stacks, self.stacks_ca)
        check_events(self.events_endpoint, self.events_key.get_secret_value())
        return self

    @property
    def model_is_default(self) -> bool:
        """Whether no model was named, so that the embedded one may substitute for the default."""
        return "model" not in self.model_fields_set

    @property
    def max_body_bytes(self) -> int:
        """The body limit, in bytes."""
        return self.max_body_mb * 1024 * 1024

    @property
    def has_tls(self) -> bool:
        """Whether nginx speaks https."""
        return bool(self.tls or self.tls_cert)

    @property
    def cors_origin_list(self) -> list[str]:
        """The origins that may call the API, one by one."""
        return listed(self.cors_origins)


def load_settings(flags: Collection[str] = ()) -> Settings:
    """Return the settings of the environment and the file.

    Args:
        flags: names of settings that the command line has put into the environment.

    Raises:
        SetupError: a value is wrong, or a name is not a setting; the message names the place.
    """
    return read_settings(gather(Settings.model_fields, flags))


def read_settings(sources: Sources) -> Settings:
    """Return the settings of these sources.

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
    """Return whether a setting's value must never be shown."""
    return Settings.model_fields[name].annotation is SecretStr


RELOADABLE = frozenset(name for name, about in Settings.model_fields.items() if about.json_schema_extra)
"""Settings that new workers of the same master can take up, after HUP."""
