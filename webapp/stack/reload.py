"""HUP to `reranking serve`: key file and certificate are read again, and no request is lost."""

from __future__ import annotations

import contextlib
import logging

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.supervisor.client import Programs
from webapp.stack.tls import prepare_certificate

log = logging.getLogger(__name__)

READERS = ("webapp-blue", "webapp-green", "pusher", "nginx")
"""What they do at HUP: new workers that take over from the old ones; keys; certificate."""


def reload(settings: Settings) -> None:
    """Have the programs read again what they read from files. What is wrong there is logged, and they go on."""
    try:
        prepare_certificate(settings)
    except (SetupError, OSError) as error:  # such as a full disk, where one of ours was to be made anew
        log.error("%s; nginx keeps the certificate that it has", error)  # noqa: TRY400 - the message says it all
    programs = Programs(settings.run_dir)
    for program in READERS:
        with contextlib.suppress(SetupError):  # it is not running, and will read when it starts
            programs.signal(program, "HUP")
