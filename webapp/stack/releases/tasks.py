"""What each step of a deploy does and undoes; `deploy` puts the steps in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from webapp.config.cards import cards
from webapp.config.paths import program
from webapp.config.resources import free_bytes
from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir, read_golden, read_manifest
from webapp.stack.local_client import ColorApi
from webapp.stack.nginx.traffic_split import KEPT_S, point
from webapp.stack.processes import WITH_PARENT, run_and_read
from webapp.stack.releases import canary, checks, state
from webapp.stack.releases.canary import Since
from webapp.stack.releases.environment import environment
from webapp.stack.releases.recovery import remove_artifact
from webapp.stack.releases.steps import DeployReporter, Step
from webapp.stack.supervisor.client import Program, Programs, SupervisorError

POLL_S = 0.1

CALLS_A_WORKER = 4
"""Any worker may take a call; with this many calls, about one round in ten still misses a worker."""

QUIET_ROUNDS = 3
"""Rounds in a row, a second apart, that must find no request at work before several workers count as quiet."""

KILL_AFTER_S = 10.0
"""A color that no client has reached has nothing to finish."""

SURE_S = 0.5
"""Only new workers must have answered for this long: an old one closes its socket when it is told to stop."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """Options of `reranking deploy`."""

    values: Mapping[str, str] = field(default_factory=dict)
    """Variables to set; an empty value: as the stack's environment has it."""
    canary_percent: int = 0
    canary_s: float = 60.0
    watch_s: float = 5.0
    ready_timeout_s: float = 120.0
    """Longest wait until the new color is ready."""
    dry_run: bool = False
    again: bool = False
    """Deploy even if nothing changes."""
    made: str = ""
    """Artifact that was made for this release; empty: none was."""


@dataclass(slots=True)
class DeployTasks:
    """The tasks of one deploy, named by their steps; `undo_` tasks accept a step that failed half-way."""

    afterwards: ClassVar[tuple[str, ...]] = ("drain",)
    """Steps when the release has the clients; not undone."""

    colors: state.Colors
    """Content of the state file."""
    release: state.Release
    target: str
    """The color that is to serve the release."""
    settings: Settings
    """The settings of the release."""
    options: DeployOptions
    reporter: DeployReporter = field(init=False)
    """Set before the first step."""
    programs: Programs = field(init=False)
    api: ColorApi = field(init=False)
    _old: str = field(init=False)
    _had_clients: bool = field(init=False, default=False)
    _pid: int = field(init=False, default=0)
    """Pid of the target's process when it was ready. Another pid later means that it died."""

    def __post_init__(self) -> None:
        self.programs = Programs(self.settings.run_dir)
        self.api = ColorApi(self.settings, self.target)
        self._old = state.other(self.target)

    def steps(self, *names: str) -> list[Step]:
        """Return the steps of these names."""
        return [Step(name, getattr(self, name), getattr(self, f"undo_{name}", None)) for name in names]

    def save(self, colors: state.Colors) -> None:
        """Write the state file."""
        state.write(self.settings.state_dir, colors)
        self.colors = colors

    def prepare(self) -> str:
        """Make the artifact, in a process of its own that ends with this one; keep one that is complete."""
        if self.settings.engine == "stub":
            return "the stub engine needs no artifact"
        directory = artifact_dir(self.settings)
        if not directory.exists():
            self._write_attempt(artifact=directory.name)
        with environment(self.release.settings):
            code, last = run_and_read([*WITH_PARENT, *program("webapp", "prepare")], self.reporter.detail)
        if code:
            raise SetupError(last.removeprefix("reranking: ") or f"prepare ended with {code}")
        return f"artifact {directory.name}"

    def undo_prepare(self) -> None:
        """Remove the artifact if this deploy made it."""
        attempt = self.colors.attempt
        remove_artifact(attempt.artifact if attempt else "", self.settings.models_dir)

    def artifact(self) -> str:
        """Check that the artifact is there and complete. For a rollback, which makes none."""
        name = self.release.artifact
        if name and read_manifest(self.settings.models_dir / name) is None:
            raise SetupError(f"its artifact {name} is gone; deploy that release again")
        if name and artifact_dir(self.settings).name != name:
            raise SetupError("the model's files have changed since; deploy it again")
        return name or "none needed"

    def room(self) -> str:
        """Check that the new color fits into memory beside the color that serves."""
        active = checks.measure(self.programs.of(state.program_of(self.colors.active)).pid)
        new, old = (
            checks.size_of(self.settings.models_dir / release.artifact) if release.artifact else 0
            for release in (self.release, self.colors.serving)
        )
        needed = checks.needed(active, workers=self.settings.workers, artifact_growth=new - old)
        manifest = read_manifest(self.settings.models_dir / self.release.artifact) if self.release.artifact else None
        takes = manifest.card_bytes if manifest else 0
        on_card = checks.room_on_cards(takes, self.settings.workers, cards()) if takes else ""
        return "; ".join(filter(None, (checks.room(needed, free_bytes()), on_card)))

    def start(self) -> str:
        """Start the target."""
        self._write_attempt()
        self.save(self.colors.with_release(self.target, self.release))
        self.programs.start(state.program_of(self.target))
        return f"pid {self._program().pid}"

    def undo_start(self) -> None:
        """Stop the target, and give it its old release back."""
        if self._had_clients:
            self._stop(self.target)
        else:
            self.programs.stop(state.program_of(self.target), timeout_s=4 * KILL_AFTER_S, kill_after_s=KILL_AFTER_S)
        attempt = self.colors.attempt
        self.save(self.colors.with_release(self.target, attempt.replaced if attempt else None))

    def ready(self) -> str:
        """Wait until the target has made a score."""
        give_up = time.monotonic() + self.options.ready_timeout_s
        while not (self.api.release() == self.release.number and self.api.is_ready()):
            if self._program().state not in {"STARTING", "RUNNING"}:
                raise self._error("it ended while it started")
            if time.monotonic() > give_up:
                raise self._error(f"it was not ready within {self.options.ready_timeout_s:g} s")
            time.sleep(POLL_S)
        self._pid = self._program().pid
        return f"release {self.release.number} answers as {self.target}"

    def gate(self) -> str:
        """Check golden scores, every dialect and memory."""
        results = []
        if self.release.artifact:
            known = read_golden(self.settings.models_dir / self.release.artifact)
            results.append(checks.golden(self.api, known))
        results.append(checks.smoke(self.api))
        master = self._program().pid
        results.append(checks.steady_memory(self.api, self.settings, lambda: checks.measure(master).workers))
        return "; ".join(results)

    def canary(self) -> str:
        """Give the target a share of the requests for some time, and compare its answers with the old color's."""
        self._had_clients = True
        run_dir, percent = self.settings.run_dir, self.options.canary_percent
        point(run_dir, self.target, other=self._old, percent=percent, fallback=self._old)
        since = self._start_log()
        for left_s in self._while_alive(self.options.canary_s):
            self.reporter.count(f"{percent} % of requests, for {left_s:.0f} s more")
        until = since.now()
        # Now, for the wait below is for slow requests of the share: without them, only quick ones would be compared.
        point(run_dir, self._old)
        quiet = 0
        for _ in self._while_alive(self.settings.request_timeout_s):
            quiet = quiet + 1 if self._is_quiet() else 0
            if quiet == QUIET_ROUNDS or (quiet and self.settings.workers == 1):
                break
        answers = [answer for answer in canary.read(run_dir, since) if answer.began < until]
        return canary.judge(*canary.samples(answers, self.target, percent, until))

    def undo_canary(self) -> None:
        """Give the old color all requests."""
        point(self.settings.run_dir, self._old)
        canary.stop(self.settings.run_dir)

    def switch(self) -> str:
        """Give the target all requests. The old color gets those that fail there, until the watch is over."""
        self._had_clients = True
        point(self.settings.run_dir, self.target, fallback=self._old)
        self.save(self.colors.switched())
        return f"{self.target} serves"

    def undo_switch(self) -> None:
        """Give the old color all requests, and make it the active one."""
        self.undo_canary()
        if self.colors.active == self.target:
            self.save(self.colors.switched())

    def watch(self) -> str:
        """Judge the target's answers for some time, while the old color is still up."""
        since = self._start_log()
        for _ in self._while_alive(self.options.watch_s):
            canary.judge_alone(canary.read(self.settings.run_dir, since), self.target)
        return canary.judge_alone(canary.read(self.settings.run_dir, since), self.target)

    def drain(self) -> str:
        """Let the old color finish its requests, and stop it. A rollback can start it again."""
        point(self.settings.run_dir, self.target)
        canary.stop(self.settings.run_dir)
        self._stop(self._old)
        return f"{self._old} has finished and stopped"

    def _stop(self, color: str) -> None:
        """Stop a color after its requests have ended; report their number once a second."""
        reported = time.monotonic()
        api = ColorApi(self.settings, color)

        def on_wait() -> None:
            nonlocal reported
            if time.monotonic() - reported > 1:
                reported = time.monotonic()
                self.reporter.count(f"{color} finishes {api.ongoing() or 0} requests")

        timeout_s = self.settings.request_timeout_s + 2 * STOP_GRACE_S
        self.programs.stop(state.program_of(color), timeout_s=timeout_s, on_wait=on_wait)

    def _is_quiet(self) -> bool:
        """Return whether no worker that took a call has a request at work; any worker may take each call."""
        calls = 1 if self.settings.workers == 1 else CALLS_A_WORKER * self.settings.workers
        return all(self.api.ongoing() == 0 for _ in range(calls))

    def _start_log(self) -> Since:
        """Log the clients' traffic when all links are in use; nginx keeps connections to the old color for a second."""
        for _ in self._while_alive(KEPT_S):
            pass
        return canary.start(self.settings.run_dir)

    def _while_alive(self, for_s: float) -> Iterator[float]:
        """Yield the seconds left, once a second, while the target's process is the same and ready.

        Raises:
            SetupError: it died, or is no longer ready.
        """
        ends, yielded = time.monotonic() + for_s, time.monotonic()
        while (now := time.monotonic()) < ends:
            program = self._program()
            if program.pid != self._pid or not program.up:
                raise self._error(f"{self.target} died")
            if not self.api.is_ready():
                raise self._error(f"{self.target} is no longer ready")
            if now - yielded >= 1:
                yielded = now
                yield ends - now
            time.sleep(POLL_S)

    def _write_attempt(self, **changes: object) -> None:
        """Write down what this deploy takes, before it takes it."""
        attempt = self.colors.attempt or state.Attempt(
            number=self.release.number, color=self.target, replaced=self.colors.serves.get(self.target)
        )
        attempt = msgspec.structs.replace(attempt, **changes)
        self.save(msgspec.structs.replace(self.colors, attempt=attempt))

    def _program(self) -> Program:
        return self.programs.of(state.program_of(self.target))

    def _error(self, reason: str) -> SetupError:
        """Return an error that says where the target's lines are."""
        path = self.settings.log_dir / f"{state.program_of(self.target)}.log"
        log = path if path.exists() else f"the lines of {state.program_of(self.target)} on the stack's stdout"
        return SetupError(f"{reason}; see {log}")


@dataclass(slots=True)
class InPlaceReload(DeployTasks):
    """The tasks of a change that needs no new color: the same master forks new workers with other settings.

    Workers that can't start end their master. Supervisor starts it again a few times, with the release in `.colors`,
    and then gives up, which ends the stack. So the master is watched, and the old release is back before the last try.
    """

    afterwards: ClassVar[tuple[str, ...]] = ()

    _was: state.Colors | None = field(init=False, default=None)
    """The state before the reload."""

    def reload(self) -> str:
        """Send HUP to the master, and wait until only new workers answer."""
        master = self._program()
        if master.state not in {"STARTING", "RUNNING"}:
            raise self._error(f"{master.name} does not run now")
        self._was = self.colors
        self._write_release(self.release, before=self.colors.serving)
        self.programs.signal(master.name, "HUP")
        self._wait_for(self.release, master.pid)
        return f"workers of release {self.release.number} answer"

    def undo_reload(self) -> None:
        """Go back to the old release, by HUP or, where the master does not run, by its next start."""
        if self._was is None:
            return
        release = self._was.serving
        self._write_release(release, before=self._was.before)
        with contextlib.suppress(SupervisorError):  # it does not run just now, and reads its release when it starts
            self.programs.signal(state.program_of(self.target), "HUP")
        self._wait_for(release)

    def _write_release(self, release: state.Release, before: state.Release | None) -> None:
        self._write_attempt()
        colors = self.colors.with_release(self.target, release)
        self.save(msgspec.structs.replace(colors, before=before))

    def _wait_for(self, release: state.Release, pid: int = 0) -> None:
        """Wait until only workers of the release answer; with a pid, fail when the master is another process."""
        give_up, since = time.monotonic() + self.options.ready_timeout_s, time.monotonic()
        while time.monotonic() - since < SURE_S:
            master = self._program()
            if pid and master.pid != pid:
                raise self._error("its workers did not start")
            if master.state in {"STOPPED", "FATAL"}:
                raise self._error(f"{master.name} was given up")
            if self.api.release() != release.number:
                since = time.monotonic()
            if time.monotonic() > give_up:
                raise self._error(f"its workers did not come up within {self.options.ready_timeout_s:g} s")
            time.sleep(POLL_S)
