"""HUP to `reranking serve`: key file and certificate are read again, and no request is lost."""

from __future__ import annotations

import contextlib
import logging
from typing import Any
from xmlrpc.client import Error, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from webapp.errors import SetupError
from webapp.settings import Settings
from webapp.tls import prepare_certificate

log = logging.getLogger(__name__)

READERS = ("webapp-blue", "webapp-green", "pusher", "nginx")
"""What they do at HUP: new workers that take over from the old ones; keys; certificate."""


def supervisor_of(settings: Settings) -> Any:
    """Supervisord's remote procedures; nothing is connected yet."""
    transport = SupervisorTransport("", "", f"unix://{settings.run_dir / 'supervisor.sock'}")
    return ServerProxy("http://localhost", transport=transport).supervisor


def reload(settings: Settings) -> None:
    """Have the programs read again what they read from files. What is wrong there is logged, and they go on."""
    try:
        prepare_certificate(settings)
    except SetupError as error:
        log.error("%s; nginx keeps the certificate that it has", error)  # noqa: TRY400 - the message says it all
    programs = supervisor_of(settings)
    for program in READERS:
        with contextlib.suppress(OSError, Error):  # it is not running, and will read when it starts
            programs.signalProcess(program, "HUP")
