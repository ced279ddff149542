"""Templates -> configuration files of programs that are not ours."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from webapp.settings import PROXY_GRACE_S, SHUTDOWN_GRACE_S, Settings

ROOT = Path(__file__).resolve().parent.parent
"""The project's top folder: nginx/, supervisor/ and gunicorn_config.py lie there."""

# name, status, code, message, retryable: nginx's own refusals in the shape of `webapp.api.problems`.
REFUSALS = (
    ("bad_request", 400, "invalid_request", "the request is not valid HTTP", "false"),
    ("slow_request", 408, "invalid_request", "the request did not arrive in time", "true"),
    ("too_large", 413, "payload_too_large", "the body is larger than this service accepts", "false"),
    ("long_uri", 414, "invalid_request", "the request line is too long", "false"),
    ("internal", 500, "internal", "an internal error", "true"),
    ("unavailable", 503, "unavailable", "the service is starting or restarting", "true"),
    ("deadline", 504, "deadline_exceeded", "no answer came in time", "true"),
)


def nginx_conf(settings: Settings) -> str:
    """Nginx's configuration for these settings."""
    templates = Environment(
        loader=FileSystemLoader(ROOT / "nginx"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - a configuration file, not a page; values come from settings
        keep_trailing_newline=True,
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return templates.get_template("nginx.conf.j2").render(
        run_dir=settings.run_dir,
        webapp_socket=settings.webapp_socket,
        pusher_socket=settings.pusher_socket,
        listen=f"{host}:{settings.port}",
        user=getpass.getuser() if os.geteuid() == 0 else "",
        max_body_mb=settings.max_body_mb,
        read_s=settings.request_timeout_s + PROXY_GRACE_S,
        shutdown_s=settings.request_timeout_s + SHUTDOWN_GRACE_S,
        refusals=REFUSALS,
    )
