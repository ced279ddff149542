"""One replica of the service on an asyncio loop: a webapp that can be replaced by another one while requests come.

Laws: a webapp answers to the end each request that it has begun; the next one gets requests once it has made a real
score, and not before; a configuration that can't be served changes nothing. All on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.config.paths import program
from webapp.config.settings import Settings, read_settings
from webapp.config.sources import gather, unknown, variable
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir, read_manifest
from webapp.engine.loader import load_engine
from webapp.servers.assembly import Webapp, assemble
from webapp.servers.ray.asgi import Receive, Reply, Scope, answer
from webapp.servers.ray.bridge import AsyncioBridge

log = logging.getLogger(__name__)

STACK_SETTINGS = frozenset(
    {
        *("host", "port", "plain_port", "state_dir", "ops_group", "workers", "color", "release", "faster_artifact"),
        *("tls", "tls_cert", "tls_key", "hsts_s", "cors_origins", "dashboard_origins", "operator_keys"),
        "pusher_url",
        *("log_to", "log_level", "log_format"),
    }
)
"""Settings of nginx, supervisor and the process as a whole: no replica can follow a change of them."""


def replica_settings(changes: Mapping[str, Any], *, engine_threads: int) -> Settings:
    """Return the settings of environment and file, with the cluster's configuration above them.

    Args:
        changes: values by the settings' names, such as {"max_documents": 500}.
        engine_threads: the cores of this replica; counts where no other number is chosen.

    Raises:
        SetupError: a value is wrong, or a name is no setting of a replica.
    """
    known = set(Settings.model_fields)
    problems = [unknown(name, known - STACK_SETTINGS) for name in changes if name not in known]
    problems += [f"{name} is not a replica's; {variable(name)} may be" for name in changes if name in STACK_SETTINGS]
    if problems:
        raise SetupError(f"user_config: {'; '.join(problems)}")
    found = gather(Settings.model_fields)
    chosen = set(found.environment) | set(found.file) | set(changes)
    above = dict(changes)
    if "engine_threads" not in chosen:
        above["engine_threads"] = engine_threads
    if not chosen & {"events", "events_endpoint"}:
        above["events"] = False  # there is a pusher only where the configuration says so
    return read_settings(
        replace(
            found,
            environment={name: value for name, value in found.environment.items() if name not in above},
            file={**found.file, **above},
            path=Path("user_config"),  # where a message says that a value is wrong
        )
    )


class Serving:
    """A webapp, from its first score to its last reply."""

    def __init__(self, settings: Settings, webapp: Webapp, bridge: AsyncioBridge, artifact: str) -> None:
        self.settings = settings
        self.artifact = artifact
        """Name of the loaded artifact; empty for the stub engine. The settings may mean another one by now."""
        self.webapp = webapp
        self.fault = ""
        """Why it can't go on; empty when it can."""
        self._bridge = bridge
        self._ongoing = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    async def begin(cls, settings: Settings, last: Serving | None = None) -> Serving:
        """Load, compile, score; return when it is ready.

        Args:
            settings: what to serve.
            last: the webapp that it replaces; they share the loaded artifact and known scores where possible.

        Raises:
            SetupError: the model can't be prepared, or its artifact is damaged.
            Exception: the engine did not start.
        """
        engine = cache = None
        artifact = "" if settings.engine == "stub" else artifact_dir(settings).name
        if last is not None:
            engine = last.webapp.engine if artifact and artifact == last.artifact else None
            cache = last.webapp.service.scoring.cache if settings.cache_mb == last.settings.cache_mb else None
        if engine is None:
            await prepare(settings)
            # It reads and hashes hundreds of megabytes; requests go on.
            engine = await asyncio.get_running_loop().run_in_executor(None, load_engine, settings)
        bridge = AsyncioBridge()
        webapp = assemble(settings, bridge, engine=engine, cache=cache)
        serving = cls(settings, webapp, bridge, artifact)
        started: asyncio.Future[float | Exception] = asyncio.get_running_loop().create_future()
        webapp.start(started.set_result, serving._broken)
        outcome = await started
        if isinstance(outcome, Exception):
            serving.stop()
            raise outcome
        model = webapp.engine.info
        log.info("ready after %.2f s", outcome, extra={"model": model.model, "precision": model.precision})
        return serving

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """Answer one request; see `webapp.servers.ray.asgi.answer`."""
        self._ongoing += 1
        self._idle.clear()
        try:
            return await answer(self.webapp.app, scope, receive)
        finally:
            self._ongoing -= 1
            if not self._ongoing:
                self._idle.set()

    async def finish(self) -> None:
        """Answer the requests at work, then stop. Each of them has a deadline, so this ends."""
        await self._idle.wait()
        self.stop()

    def stop(self) -> None:
        """End the engine threads and all that runs beside the requests."""
        self.webapp.stop()
        self._bridge.close()

    def _broken(self, fault: str) -> None:
        log.critical("%s; this replica ends", fault)
        self.fault = fault


class Replica:
    """The webapp that answers now, and its replacement by another."""

    def __init__(self, *, engine_threads: int) -> None:
        """Nothing is served before `configure`.

        Args:
            engine_threads: see `replica_settings`.
        """
        self._engine_threads = engine_threads
        self._serving: Serving | None = None
        self._one_at_a_time = asyncio.Lock()
        self._finishing: set[asyncio.Task[None]] = set()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Serve with these settings; returns when new requests are answered by them.

        Args:
            changes: see `replica_settings`.

        Raises:
            SetupError: they can't be served.
            Exception: the engine did not start.
        """
        async with self._one_at_a_time:
            settings = replica_settings(changes, engine_threads=self._engine_threads)
            last = self._serving
            if last is not None and settings == last.settings:
                return
            self._serving = await Serving.begin(settings, last)
            if last is not None:
                task = asyncio.get_running_loop().create_task(last.finish())
                self._finishing.add(task)
                task.add_done_callback(self._finishing.discard)

    def check_health(self) -> None:
        """Check that this replica can make scores.

        Raises:
            RuntimeError: it can't, and says why.
        """
        serving = self._serving
        if serving is None:
            raise RuntimeError("nothing is configured yet")
        if serving.fault:
            raise RuntimeError(serving.fault)
        if (state := serving.webapp.service.state) != "ready":
            raise RuntimeError(f"the service is {state}")

    async def answer(self, scope: Scope, receive: Receive) -> Reply | None:
        """Answer one request.

        Returns:
            The reply; None when the caller hung up.
        """
        if self._serving is None:
            raise RuntimeError("nothing is configured yet")
        return await self._serving.answer(scope, receive)

    async def leave(self) -> None:
        """Answer the requests at work, then end all."""
        if self._serving is not None:
            self._serving.webapp.leave()
            await asyncio.gather(self._serving.finish(), *self._finishing)


async def prepare(settings: Settings) -> None:
    """Prepare the artifact if it is missing: the first replica of a node does it, the others wait for its lock.

    In a process of its own: converting a model takes gigabytes, and serving never imports that.

    Raises:
        SetupError: it can't be made.
    """
    if settings.engine == "stub" or read_manifest(artifact_dir(settings)) is not None:
        return
    log.info("preparing %s", settings.model)
    variables = {
        variable(name): str(value)
        for name, value in settings
        if name in settings.model_fields_set and name in _PREPARES_BY | {"state_dir"}
    }
    process = await asyncio.create_subprocess_exec(
        *program("webapp", "prepare"),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise SetupError(f"{settings.model} could not be prepared: {output.decode(errors='replace')[-2000:]}")


_PREPARES_BY = {"model", "engine", "precision", "max_length_tokens", "recipe"} | {
    name for name in Settings.model_fields if name.startswith("gate_")
}
"""Settings that an artifact depends on, as in `artifact_dir`."""
