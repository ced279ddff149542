"""The service as a Ray Serve application: `serve run reranking_server.ray_app:app`.

docs/ray.md says how to run it. Only this file and `router` know Ray. The HTTP API is the stack's, dialects and errors
included; Serve's proxies take the place of nginx and gunicorn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from starlette.requests import Request
from starlette.responses import Response

from contracts.logging.configure import configure
from webapp.config.settings import PROXY_GRACE_S, Settings, load_settings
from webapp.servers.ray.replica import Replica
from webapp.servers.ray.router import SmallestBacklog

CLIENT_CLOSED = 499
"""The status that nginx logs for a client that is gone."""

_limits = {name: Settings.model_fields[name].default for name in ("max_ongoing_requests", "request_timeout_s")}


class Reranking:
    """One replica, as Serve calls it."""

    def __init__(self) -> None:
        chosen = load_settings()
        configure(level=chosen.log_level, log_format=chosen.log_format, service="webapp", color=chosen.color)
        cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        self._replica = Replica(engine_threads=max(1, int(cores)))

    async def reconfigure(self, user_config: Mapping[str, Any] | None, rank: Any) -> None:
        """Apply `user_config`: before the first request, and when it changed.

        The unused `rank` makes Serve call this also where there is no `user_config`.
        """
        del rank
        await self._replica.configure(user_config or {})

    def check_health(self) -> None:
        """Raise if the replica is broken; Serve replaces it after three times."""
        self._replica.check_health()

    async def __call__(self, request: Request) -> Response:
        """Answer one request, whatever its path."""
        reply = await self._replica.answer(request.scope, request.receive)
        if reply is None:
            return Response(status_code=CLIENT_CLOSED)
        response = Response(reply.body, reply.status)
        response.raw_headers = [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in reply.headers
            if name != "X-Request-Id"  # the proxy adds the same one: it puts the header into each request
        ]
        return response

    async def __del__(self) -> None:
        """End the replica; Serve has let all requests finish by now, or has given up waiting for them."""
        if hasattr(self, "_replica"):
            await self._replica.leave()


def deploy(kind: type[Reranking], router: type[SmallestBacklog]) -> serve.Application:
    """Return the application with replicas and routers of these classes, and the limits of the settings' defaults."""
    deployment = serve.deployment(
        name="reranking",
        ray_actor_options={"num_cpus": 1},
        request_router_config=RequestRouterConfig(request_router_class=router),
        # Serve's own refusals know no dialect, so ours come first: those count requests at work and what they hold.
        max_ongoing_requests=_limits["max_ongoing_requests"] + 128,
        max_queued_requests=256,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        health_check_period_s=2,
        health_check_timeout_s=10,
        # Above the longest request, as in the stack's own ladder.
        graceful_shutdown_timeout_s=_limits["request_timeout_s"] + PROXY_GRACE_S,
        graceful_shutdown_wait_loop_s=0.5,
    )(kind)
    return deployment.bind()
