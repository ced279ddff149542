"""The WSGI entry that gunicorn loads, once, in its master."""

import logging
import os
from wsgiref.types import WSGIApplication

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import NAMED_VARIABLE
from webapp.servers.assembly import assemble
from webapp.servers.gunicorn.bridge import GeventBridge

log = logging.getLogger("webapp")

try:
    settings = load_settings()
    webapp = assemble(settings, GeventBridge(), artifact=os.environ.get(NAMED_VARIABLE, ""))
except SetupError as error:
    log.critical("%s", error, exc_info=log.isEnabledFor(logging.DEBUG))
    raise SystemExit(1) from None
app = webapp.app


def renew(chosen: Settings) -> WSGIApplication:
    """Return the app of the workers to come, after HUP, in the master.

    The engine stays: this is for settings that have nothing to do with the artifact.
    """
    global settings, webapp, app  # noqa: PLW0603 - what gunicorn knows by name
    if chosen is not settings:
        try:
            webapp = assemble(chosen, GeventBridge(), engine=webapp.engine)
        except SetupError:
            logging.getLogger(__name__).exception("the new settings can't be served; the old ones stay")
        else:
            settings, app = chosen, webapp.app
    return app
