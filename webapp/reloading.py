"""What a `reranking serve` of before this version imports at HUP after an upgrade in place. Gone in the next version.

That process has its own modules loaded, whose files are gone; so this uses them as they are and imports none.
"""

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_UPGRADED_AT = Path(__file__).stat().st_ctime


def reload(settings: Any) -> None:
    """Have the programs read keys and certificate again; not a master of the old code: it could start no workers."""
    setup_error = sys.modules["webapp.errors"].SetupError
    try:
        sys.modules["webapp.tls"].prepare_certificate(settings)
    except (setup_error, OSError) as error:
        log.error("%s; nginx keeps the certificate that it has", error)  # noqa: TRY400 - the message says it all
    programs = sys.modules["webapp.releases.programs"].Programs(settings.run_dir)
    for name in ("webapp-blue", "webapp-green", "pusher", "nginx"):
        with contextlib.suppress(setup_error):  # it is not running, and will read when it starts
            program = programs.of(name)
            if program.up and name.startswith("webapp-") and time.time() - program.uptime_s < _UPGRADED_AT:
                log.warning("%s runs the code of before the upgrade and keeps its keys; run: reranking deploy", name)
            else:
                programs.signal(name, "HUP")
