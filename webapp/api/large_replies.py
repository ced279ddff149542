"""Send large replies as files, so that a worker's death cuts none of them short; see `webapp.api.reply_files`."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response, request

from webapp.api import warning_headers
from webapp.api.errors import respond
from webapp.api.reply_files import LARGE_BYTES, ReplyFiles
from webapp.domain.concurrency import Offload
from webapp.domain.errors import UnavailableError

FILE_HEADER = "X-Accel-Redirect"
"""Tells nginx to send a file of its own in place of this reply's body."""


def install(app: Flask, files: ReplyFiles, elsewhere: Offload) -> None:
    """Write the body of a large reply to a POST into a file, and have nginx send that.

    A reply that finds no room on the disk becomes 503: sent in pieces it could be cut short.
    """

    def hand_over(response: Response) -> Response:
        large = (response.content_length or 0) > LARGE_BYTES
        if not large or not files.usable or request.method != "POST" or response.status_code != HTTPStatus.OK:
            return response
        body = response.get_data()
        try:
            path = elsewhere(lambda: files.put(body))
        except OSError as cause:
            response.close()  # nobody else does, for another one is sent; it gives back what it held
            error = UnavailableError(f"the reply can't be written to the disk: {cause.strerror}", retry_after_s=10)
            error.__cause__ = cause
            return respond(error)
        except BaseException:
            response.close()
            raise
        response.set_data(b"")
        response.headers[FILE_HEADER] = path
        warning_headers.join(response)
        return response

    app.after_request(hand_over)
