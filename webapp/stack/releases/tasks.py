"""What the steps of a deploy do, each by itself. `deploy` and `rollback` put them in order."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.config.source_tree import program
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir, read_golden, read_manifest
from webapp.stack.nginx.traffic_split import KEPT_S, point
from webapp.stack.processes import WITH_PARENT
from webapp.stack.releases import canary, checks, memory_budget, state
from webapp.stack.releases.color_api import ColorApi
from webapp.stack.releases.environment import environment
from webapp.stack.releases.recovery import remove_artifact
from webapp.stack.releases.state import Attempt, Colors, Release
from webapp.stack.supervisor.client import Programs, program_of

POLL_S = 0.1

CALLS_A_WORKER = 4
"""Who takes a call is chance; with so many, one of ten looks or so still misses a worker."""

QUIET_LOOKS = 3
"""So many in a row, a second apart, find no request at work before several workers count as quiet."""

KILL_AFTER_S = 10.0
"""A color that no client met has nothing to finish."""


@dataclass(slots=True)
class DeployTasks:
    """One new release on its way to a color."""

    colors: Colors
    """As the file has it."""
    release: Release
    target: str
    """The color it is to serve."""
    settings: Settings
    """Its own."""
    more: Callable[[str], None]
    """Told what goes on inside a step."""
    patience_s: float
    """Longest wait until it is ready."""
    count: Callable[[str], None] = field(init=False)
    """Told of a figure that changes inside a step, once a second."""
    programs: Programs = field(init=False)
    api: ColorApi = field(init=False)
    _old: str = field(init=False)
    _met_clients: bool = field(init=False, default=False)
    _pid: int = field(init=False, default=0)
    """Of its process when it was ready: another one later means that it died."""
    _since: canary.Since = field(init=False, default_factory=canary.Since)
    """When the log of the clients' traffic began, in unix time."""

    def __post_init__(self) -> None:
        self.count = self.more
        self.programs = Programs(self.settings.run_dir)
        self.api = ColorApi(self.settings, self.target)
        self._old = state.other(self.target)

    def keep(self, colors: Colors) -> None:
        """Write the state down."""
        state.write(self.settings.state_dir, colors)
        self.colors = colors

    def prepare(self) -> str:
        """Make the artifact, in a process of its own that ends with us, or find it whole."""
        if self.settings.engine == "stub":
            return "the stub engine needs no artifact"
        directory = artifact_dir(self.settings)
        if not directory.exists():
            self._attempt(artifact=directory.name)
        with environment(self.release.settings):
            child = subprocess.Popen(
                [*WITH_PARENT, *program("webapp", "prepare")],
                env=dict(os.environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        last = ""
        with child:
            for line in child.stdout or ():
                last = line.strip()
                self.more(last)
        if child.returncode:
            raise SetupError(last.removeprefix("reranking: ") or f"prepare ended with {child.returncode}")
        return f"artifact {directory.name}"

    def unprepare(self) -> None:
        """Remove the artifact, if it was made for this release alone."""
        attempt = self.colors.attempt
        remove_artifact(attempt.artifact if attempt else "", self.settings.models_dir)

    def artifact(self) -> str:
        """The artifact is there, and whole; for a rollback, which makes none."""
        name = self.release.artifact
        if name and read_manifest(self.settings.models_dir / name) is None:
            raise SetupError(f"its artifact {name} is gone; deploy that release again")
        if name and artifact_dir(self.settings).name != name:
            raise SetupError("the model's files have changed since; deploy it again")
        return name or "none needed"

    def room(self) -> str:
        """Refuse what doesn't fit into memory beside the color that serves."""
        active = memory_budget.measure(self.programs.of(program_of(self.colors.active)).pid)
        old, new = self.colors.serving.artifact, self.release.artifact
        growth = self._size(new) - self._size(old)
        needed = memory_budget.needed(active, workers=self.settings.workers, artifact_growth=growth)
        return memory_budget.check(needed, memory_budget.free_bytes())

    def start(self) -> str:
        """Start the color."""
        self._attempt()
        self.keep(self.colors.with_release(self.target, self.release))
        self.programs.start(program_of(self.target))
        return f"pid {self.programs.of(program_of(self.target)).pid}"

    def unstart(self) -> None:
        """Stop it, and give the color back what it had."""
        if self._met_clients:
            self.stop(self.target)
        else:
            self.programs.stop(program_of(self.target), patience_s=4 * KILL_AFTER_S, kill_after_s=KILL_AFTER_S)
        attempt = self.colors.attempt
        self.keep(self.colors.with_release(self.target, attempt.replaced if attempt else None))

    def ready(self) -> str:
        """Wait until it made a score."""
        program, give_up = program_of(self.target), time.monotonic() + self.patience_s
        while not (self.api.release() == self.release.number and self.api.is_ready()):
            if self.programs.of(program).state not in {"STARTING", "RUNNING"}:
                raise SetupError(f"it ended while it started; see {self._log()}")
            if time.monotonic() > give_up:
                raise SetupError(f"it was not ready within {self.patience_s:g} s; see {self._log()}")
            time.sleep(POLL_S)
        self._pid = self.programs.of(program).pid
        return f"release {self.release.number} answers as {self.target}"

    def gate(self) -> str:
        """Golden scores, every dialect, memory."""
        said = [checks.smoke(self.api)]
        if self.release.artifact:
            known = read_golden(self.settings.models_dir / self.release.artifact)
            said.insert(0, checks.golden(self.api, known))
        master = self.programs.of(program_of(self.target)).pid
        said.append(checks.steady_memory(self.api, self.settings, lambda: memory_budget.measure(master).workers))
        return "; ".join(said)

    def canary(self, percent: int, for_s: float) -> str:
        """Give it a share of the clients, and compare."""
        self._met_clients = True
        run_dir = self.settings.run_dir
        point(run_dir, self.target, other=self._old, percent=percent, fallback=self._old)
        self._look_at_clients()
        for left_s in self._while_it_lives(for_s):
            self.count(f"{percent} % of requests, for {left_s:.0f} s more")
        until = self._since.now()
        point(run_dir, self._old)  # what it was given ends now, or it tells of the quick ones only
        quiet = 0
        for _ in self._while_it_lives(self.settings.request_timeout_s):
            quiet = quiet + 1 if self._finds_no_work() else 0
            if quiet == QUIET_LOOKS or (quiet and self.settings.workers == 1):
                break
        answers = [answer for answer in canary.read(run_dir, self._since) if answer.began < until]
        return canary.judge(*canary.samples(answers, self.target, percent, until))

    def _finds_no_work(self) -> bool:
        """Whether none of its workers that were met has a request; each call meets any of them."""
        calls = 1 if self.settings.workers == 1 else CALLS_A_WORKER * self.settings.workers
        return all(self.api.ongoing() == 0 for _ in range(calls))

    def uncanary(self) -> None:
        """Give all clients back."""
        point(self.settings.run_dir, self._old)
        canary.stop(self.settings.run_dir)

    def switch(self) -> str:
        """Give it all clients. The old one stays for those whom it fails, until the watch is over."""
        self._met_clients = True
        point(self.settings.run_dir, self.target, fallback=self._old)
        self.keep(self.colors.switched())
        return f"{self.target} serves"

    def unswitch(self) -> None:
        """Give all clients back to the old one."""
        self.uncanary()
        if self.colors.active == self.target:
            self.keep(self.colors.switched())

    def watch(self, for_s: float) -> str:
        """See whether it goes well, as long as the old one is there to go back to."""
        self._look_at_clients()
        for _ in self._while_it_lives(for_s):
            canary.judge_alone(canary.read(self.settings.run_dir, self._since), self.target)
        return canary.judge_alone(canary.read(self.settings.run_dir, self._since), self.target)

    def drain(self) -> str:
        """Let the old color finish what it has, and stop it. It can be started again."""
        point(self.settings.run_dir, self.target)
        canary.stop(self.settings.run_dir)
        self.stop(self._old)
        return f"{self._old} has finished and stopped"

    def stop(self, color: str) -> None:
        """Stop a color; what it has in hand is finished."""
        told = time.monotonic()
        api = ColorApi(self.settings, color)

        def waits() -> None:
            nonlocal told
            if time.monotonic() - told > 1:
                told = time.monotonic()
                self.count(f"{color} finishes {api.ongoing() or 0} requests")

        patience_s = self.settings.request_timeout_s + 2 * STOP_GRACE_S
        self.programs.stop(program_of(color), patience_s=patience_s, waits=waits)

    def _look_at_clients(self) -> None:
        """From when on the new color has what it was given: nginx keeps connections to the old one for a second."""
        for _ in self._while_it_lives(KEPT_S):
            pass
        self._since = canary.start(self.settings.run_dir)

    def _while_it_lives(self, for_s: float) -> Iterator[float]:
        """Seconds left, once a second, as long as the new color's process is the same and ready."""
        name = program_of(self.target)
        ends, said = time.monotonic() + for_s, time.monotonic()
        while (now := time.monotonic()) < ends:
            program = self.programs.of(name)
            if program.pid != self._pid or not program.up:
                raise SetupError(f"{self.target} died; see {self._log()}")
            if not self.api.is_ready():
                raise SetupError(f"{self.target} is no longer ready; see {self._log()}")
            if now - said >= 1:
                said = now
                yield ends - now
            time.sleep(POLL_S)

    def _attempt(self, **changes: object) -> None:
        """Write down what there will be to give back, before it is taken."""
        attempt = self.colors.attempt or Attempt(
            number=self.release.number, color=self.target, replaced=self.colors.serves.get(self.target)
        )
        attempt = msgspec.structs.replace(attempt, **changes)
        self.keep(msgspec.structs.replace(self.colors, attempt=attempt))

    def _size(self, artifact: str) -> int:
        return memory_budget.size_of(self.settings.models_dir / artifact) if artifact else 0

    def _log(self) -> str:
        path = self.settings.log_dir / f"{program_of(self.target)}.log"
        return str(path) if path.exists() else f"the lines of {program_of(self.target)} on the stack's stdout"
