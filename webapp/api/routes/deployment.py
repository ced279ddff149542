"""Which release answers: GET /deployment_color, and a header on every reply."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from flask import Flask, Response

COLOR_HEADER = "X-Deployment-Color"

PATH = "/deployment_color"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A release as callers see it."""

    color: str = ""
    """Empty where there are no colors."""
    release: int = 0


NOWHERE = Deployment()


def install(app: Flask, deployment: Deployment) -> None:
    """Tell it."""
    body = msgspec.json.encode({"color": deployment.color, "release": deployment.release})

    def mark(response: Response) -> Response:
        response.headers[COLOR_HEADER] = deployment.color
        return response

    app.add_url_rule(PATH, view_func=lambda: Response(body, content_type="application/json"), endpoint="deployment")
    if deployment.color:
        app.after_request(mark)
