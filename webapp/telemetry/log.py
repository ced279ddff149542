"""One shape for every log line, ours and the libraries': JSON in files, readable on a terminal.

Lines go to stderr only; supervisor writes and rotates the files. Never a query's or a document's text.
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.EventRenamer("message"),
]

_FIRST_KEYS = ("time", "level", "service", "pid", "logger", "message")


def _renderer(log_format: str) -> list[Any]:
    if log_format == "human" or (log_format == "auto" and sys.stderr.isatty()):
        return [structlog.dev.ConsoleRenderer(event_key="message", timestamp_key="time")]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def log_config(*, level: str, log_format: str, service: str) -> dict[str, Any]:
    """A `logging.config.dictConfig`, for our processes and for gunicorn's `logconfig_dict`."""

    def add_service(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event |= {"service": service, "pid": os.getpid()}
        return {key: event[key] for key in _FIRST_KEYS if key in event} | event

    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [structlog.stdlib.ExtraAdder(), *_SHARED, add_service],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(log_format)],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines", "stream": "ext://sys.stderr"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            # We write one access line a request ourselves, with what gunicorn can't know.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def configure(*, level: str, log_format: str, service: str) -> None:
    """Set up logging for this process; called by composition roots, never at import."""
    logging.config.dictConfig(log_config(level=level, log_format=log_format, service=service))
    logging.captureWarnings(capture=True)
