"""What an operator can choose of the pusher: the webapp's variables and file, read without it.

`reranking serve` has checked them before, and names the file in RERANK_CONFIG.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

PREFIX = "RERANK_"


class Settings(BaseModel):
    """Every tunable, its unit and its default."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state_dir: Path = Field(default=Path("var"), description="Sockets lie in its run/, what the pusher remembers too.")
    events_endpoint: str = Field(
        default="",
        pattern=r"^((ipc|tcp)://.+)?$",
        description="ZeroMQ address to listen on for workers; default: a socket in the state directory.",
    )
    api_keys: str = Field(default="", description="Keys, comma-separated; any of them may follow its own requests.")
    api_keys_file: str = Field(
        default="", description="Path of a file of named, hashed keys; see contracts/api_keys.py."
    )
    operator_keys: str = Field(
        default="",
        description="Keys that may see everything, comma-separated; empty: every key may, and without keys everybody.",
    )
    dashboard_origins: str = Field(
        default="",
        description="Origins whose pages may connect, comma-separated; empty: the same origin only.",
    )
    color: str = Field(default="", description="Release slot, told in every log line.")
    log_level: str = Field(default="info", description="Least level that is logged.")
    log_format: str = Field(default="auto", description="json, human, or auto: human on a terminal.")

    @field_validator("api_keys", "operator_keys", "dashboard_origins", mode="before")
    @classmethod
    def _a_list_is_joined(cls, value: Any) -> Any:
        """A file may have a list where a variable has commas."""
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @property
    def run_dir(self) -> Path:
        """Sockets and what is remembered; private to the user."""
        return self.state_dir.expanduser().absolute() / "run"

    @property
    def socket(self) -> Path:
        """Where nginx finds the pusher."""
        return self.run_dir / "pusher.sock"

    @property
    def own_key(self) -> Path:
        """The stack's own key."""
        return self.run_dir / "own.key"

    @property
    def memory(self) -> Path:
        """What a restarted pusher goes on with."""
        return self.run_dir / "pusher.json"

    @property
    def intake_address(self) -> str:
        """Where workers connect."""
        return self.events_endpoint or f"ipc://{self.run_dir / 'events.sock'}"


def load_settings() -> Settings:
    """What the environment says, above what the file says."""
    found: dict[str, Any] = {}
    if path := os.environ.get("RERANK_CONFIG"):
        import yaml  # noqa: PLC0415 - most services have no file

        try:
            found = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SystemExit(f"pusher: RERANK_CONFIG: {path} can't be read ({error.strerror})") from None
    for name, value in os.environ.items():
        if name.upper().startswith(PREFIX):
            found[name.upper().removeprefix(PREFIX).lower()] = value
    return Settings(**found)


def listed(value: str) -> list[str]:
    """The entries of a comma-separated setting."""
    return [entry.strip() for entry in value.split(",") if entry.strip()]
