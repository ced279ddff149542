"""The HTTP API on any service, in the test's process."""

import sys

from contracts.api_keys import KeyRing
from webapp.api import app
from webapp.api.body_reader import Limits, read
from webapp.api.routes.info import Deployment
from webapp.service.rate_limit import Quota
from webapp.telemetry.observer import Observer


class InlineReader:
    """A reader of bodies on the calling thread; see `webapp.api.body_reader.Reader`."""

    def __init__(self, limits):
        self._limits = limits

    def __call__(self, kind, call, deadline, client=""):
        del deadline, client
        return read(kind, call, self._limits)


def create_app(service, *, max_body_bytes, max_batch_requests=sys.maxsize, reader=None, **options):
    """The application; open to all, without limits, unless the options say otherwise."""
    return app.create_app(
        service,
        max_body_bytes=max_body_bytes,
        reader=reader or InlineReader(Limits(max_body_bytes, batch_requests=max_batch_requests)),
        **{"keys": KeyRing(), "quota": Quota(), "deployment": Deployment(), "observer": Observer(), **options},
    )
