"""Build artifacts of a model, one candidate after the other: the first that passes the gate serves, or the fastest."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import torch

from webapp.config.packages import versions_of
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.domain.types import Tuning
from webapp.engine.artifact import (
    FORMAT,
    GOLDEN,
    MANIFEST,
    TOKENIZER,
    VERDICT,
    Manifest,
    Verdict,
    machine,
    sha256_of,
    write_json,
)
from webapp.engine.loader import ModelEngine, open_engine
from webapp.engine.models.files import files_of
from webapp.engine.models.layout import read_layout
from webapp.engine.models.original import blamed_file, load_layout
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare import autotune, export, gate
from webapp.engine.prepare.calibration import Examples
from webapp.engine.prepare.framing import check_framing
from webapp.engine.prepare.in_turn import AlwaysQuiet, Measure, measure_in_turn
from webapp.engine.prepare.progress import Report, Stages
from webapp.engine.prepare.resolve import Source
from webapp.engine.prepare.room import check_memory
from webapp.engine.prepare.write import EXPORTS, NotForThisModelError
from webapp.engine.recipes import named_recipe
from webapp.engine.runtimes import Candidate
from webapp.engine.runtimes.gpu.card import card_bytes, reset_card_bytes
from webapp.engine.runtimes.torch import LoadedRuntime

FRAMING, CONVERTING, JUDGING, MEASURING = 3, 4, 5, 6
"""Numbers of these stages in reports; after a refused candidate the next one begins at converting again."""

MOST_THREADS = 8
"""Threads that judge a candidate; each has buffers of its own."""

Built = tuple[Path, Manifest]
"""An artifact's directory and its manifest, not yet written."""

log = logging.getLogger(__name__)

VERSIONS_OF = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")


def load_original(settings: Settings, source: Source, report: Report) -> SourceModel:
    """Return the model as sentence-transformers loads it, cut to the length of the settings; report a shorter limit.

    Raises:
        SetupError: sentence-transformers can't load it, or a weight is not a number.
    """
    # The embedded model is not the one that the operator's recipe is for.
    recipe = named_recipe(settings.recipe) if settings.recipe and not source.substitute_for else None
    layout = read_layout(source.directory, source.model, recipe)
    try:
        check_memory(layout)
        original = load_layout(layout)
        original.check()
    except SetupError:
        raise
    except ImportError as error:
        raise SetupError(
            f"{source.directory} asks for a library that is not here ({reason_of(error)}); change what its files ask"
            " for, or name another RERANK_MODEL"
        ) from error
    except Exception as error:  # of safetensors, tokenizers, torch, ...: each has its own
        raise SetupError(
            f"{blamed_file(layout)} can't be read by sentence-transformers ({reason_of(error)});"
            " fetch the model again, or name another RERANK_MODEL"
        ) from error
    if recipe and original.layout.recipe is None:
        raise SetupError(
            f"RERANK_RECIPE: {source.directory} says in modules.json how it reads a pair; unset RERANK_RECIPE"
        )
    if settings.max_length_tokens > original.max_length_tokens:
        asked, limit = settings.max_length_tokens, original.max_length_tokens
        report(f"RERANK_MAX_LENGTH_TOKENS is {asked}, but this model reads {limit}: texts are cut there")
    elif settings.max_length_tokens:
        original.cut_at(settings.max_length_tokens)
    return original


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds artifacts of one model."""

    original: SourceModel
    settings: Settings
    """The model, and the limits of the gate."""
    source: Source
    examples: Examples
    """Texts to calibrate with and to judge by."""
    staging: Path
    """An empty directory to build in."""
    stages: Stages
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    """Where references are computed: on a card, if there is one to compute on."""
    _found: list[str] = field(default_factory=list)
    """What was found out about each candidate, in words."""

    def build_first(self, tried: Sequence[Candidate]) -> tuple[Path, Manifest]:
        """Return the directory and the manifest of the first of these candidates that passes the gate.

        Raises:
            SetupError: nothing passes, or our way to read the model gives other scores than the original.
        """
        return self._build(tried, lambda build: next(filter(None, map(build, tried)), None))

    def build_fastest(self, tried: Sequence[Candidate]) -> tuple[Path, Manifest]:
        """Return the directory and the manifest of the fastest of these candidates that pass the gate.

        Each is measured in turn with the fastest before it, and replaces it if `in_turn.Outcome` says so: so a second
        run on the same machine makes the same choice.

        Raises:
            SetupError: as `build_first`.
        """

        def fastest(build: Callable[[Candidate], Built | None]) -> Built | None:
            best = None
            for candidate in tried:
                try:
                    other = build(candidate)
                    best = self._faster(best, other) if best and other else best or other
                except SetupError as error:
                    if best is None:
                        raise
                    self._report(f"{candidate} was not compared: {error}")
            return best

        directory, manifest = self._build(tried, fastest)
        write_json(directory / VERDICT, Verdict(summary=manifest.chosen_because, machine=machine()))
        return directory, manifest

    def _build(
        self, tried: Sequence[Candidate], choose: Callable[[Callable[[Candidate], Built | None]], Built | None]
    ) -> tuple[Path, Manifest]:
        """Return the artifact that is chosen of those that pass the gate, with its manifest written."""
        described = self._describe()
        with self.stages.stage(FRAMING, "comparing our way to frame and cut texts with the original's") as report_share:
            in_torch = ModelEngine(described, LoadedRuntime(self.original), self.staging / TOKENIZER)
            check_framing(in_torch, self.original, report_share)
        chosen = choose(partial(self._try, described))
        if chosen is None:
            raise SetupError(f"{self._found[-1]}; {advice(self.settings, tried)}")
        directory, manifest = chosen
        with self.original.on(self.device):
            golden = gate.golden(self.original, manifest.fidelity)
        (directory / GOLDEN).write_bytes(msgspec.json.encode(golden))
        manifest = msgspec.structs.replace(
            manifest,
            chosen_because="; ".join(self._found),
            files={path.name: sha256_of(path) for path in sorted(directory.iterdir())},
        )
        write_json(directory / MANIFEST, manifest)
        return chosen[0], manifest

    def _try(self, described: Manifest, candidate: Candidate) -> Built | None:
        """Return a candidate's artifact, measured; None if the gate or the engine refuses the model."""
        directory = self.staging / str(candidate).replace(" ", "-")
        directory.mkdir()
        try:
            manifest = self._export(candidate, described, directory)
            figures = self._judge(manifest, directory)
        except (NotForThisModelError, gate.GateError) as error:
            self._report(str(error))
            shutil.rmtree(directory)  # the disk may have room for one
            return None
        with self.stages.stage(MEASURING, f"measuring how fast {candidate} is") as report_share:
            reset_card_bytes()
            tuning = autotune.tune(directory, manifest, self.examples.calibration, report_share)
        self._report(f"{candidate} passes the gate, at {tuning.tokens_per_s:,.0f} tokens a second")
        measured = msgspec.structs.replace(
            manifest, fidelity=figures, tuning=tuning, card_bytes=card_bytes(manifest.engine)
        )
        return directory, measured

    def _faster(self, best: Built, rival: Built) -> Built:
        """Return the faster one of two artifacts, and remove the other."""
        names = [f"{manifest.engine} {manifest.precision}" for _, manifest in (best, rival)]
        with self.stages.stage(MEASURING, f"measuring {names[0]} and {names[1]} in turn"):
            outcome = measure_in_turn(self._bench(*best), self._bench(*rival), AlwaysQuiet())
        self._report(outcome.summary(*names))
        winner, loser = (rival, best) if outcome.rival_is_faster else (best, rival)
        shutil.rmtree(loser[0])
        return winner

    def _bench(self, directory: Path, manifest: Manifest) -> Measure:
        tuning = manifest.tuning
        threads = tuning.engine_threads or len(os.sched_getaffinity(0))
        bench = autotune.Bench(directory, manifest, threads, self.examples.calibration)
        return partial(bench.measure, tuning.batch_tokens, tuning.batches_at_once)

    def _report(self, found: str) -> None:
        """Report what was found out about a candidate, and keep it for the manifest."""
        self._found.append(found)
        self.stages.report(found)

    def _describe(self) -> Manifest:
        """Write the tokenizer; return the manifest of the model as it is, in torch, with nothing measured."""
        original = self.original
        described = Manifest(
            format=FORMAT,
            model=self.source.model,
            revision=self.source.revision,
            kind=original.kind,
            engine="torch",
            precision="fp32",
            score_scale=original.score_scale,
            template=export.export_tokenizer(original, self.staging),
            tables=original.tables,
            recipe=original.recipe,
            prompts=original.prompts,
            pools_prompts=original.pools_prompts,
            unit_vectors=original.unit_vectors,
            activation=original.layout.activation,
            fingerprint="",
            source=str(self.source.directory),
            substitute_for=self.source.substitute_for,
            fidelity={},
            tuning=Tuning(),
            chosen_because="",
            files={},
            versions=versions_of(VERSIONS_OF),
            prepared_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        return msgspec.structs.replace(described, fingerprint=_fingerprint(described, self.examples))

    def _export(self, candidate: Candidate, described: Manifest, directory: Path) -> Manifest:
        """Write tokenizer and model; return the manifest of a candidate that is not judged yet."""
        manifest = msgspec.structs.replace(described, engine=candidate.engine, precision=candidate.precision)
        shutil.copyfile(self.staging / TOKENIZER, directory / TOKENIZER)
        what, write = EXPORTS[candidate.engine]
        with self.stages.stage(CONVERTING, f"{what} for {candidate}") as report_share, _one_candidate_s(candidate):
            write(manifest, self.original, self.examples, directory, report_share)
        return manifest

    def _judge(self, manifest: Manifest, directory: Path) -> dict[str, float]:
        """Return the gate's figures. The engine is closed at the end: memory may have room for one.

        Raises:
            GateError: they are not good enough.
        """
        candidate = Candidate(manifest.engine, manifest.precision)
        with self.stages.stage(
            JUDGING, f"comparing {candidate} scores with sentence-transformers' own"
        ) as report_share:
            reset_card_bytes()  # of a candidate before
            with _one_candidate_s(candidate):
                engine = open_engine(directory, manifest)
                threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
                engine.start(threads)
                with self.original.on(self.device):
                    figures = gate.measure(engine, self.original, self.examples.judged, threads, report_share)
            gate.accept(figures, candidate, self.settings)
        return figures


@contextmanager
def _one_candidate_s(candidate: Candidate) -> Iterator[None]:
    """Turn a library's error about a model into one that lets the next candidate be tried.

    A disk or a memory that is full fails the next one, too.
    """
    try:
        yield
    except (SetupError, OSError, MemoryError):
        raise
    except Exception as error:
        log.debug("%s failed", candidate, exc_info=True)
        raise NotForThisModelError(f"{candidate} can't compute this model ({reason_of(error)})") from error


def advice(settings: Settings, tried: Sequence[Candidate]) -> str:
    """Return what can help after all of these candidates failed. PURE."""
    if settings.engine == "native":
        return "set RERANK_ENGINE to auto"
    if settings.precision != "auto" and not any(each.precision == "fp32" for each in tried):
        return "set RERANK_PRECISION to auto"
    if not any(each.engine == "torch" for each in tried):
        return "set RERANK_ENGINE to torch"
    return "name another RERANK_MODEL"


def _fingerprint(described: Manifest, examples: Examples) -> str:
    """Return a hash of all that scores depend on, beside engine and precision.

    That is each file of the original, what was read off them, and the texts that int8 is calibrated with.
    """
    digest = hashlib.blake2b(digest_size=16)
    read_off = (
        described.kind,
        described.score_scale,
        described.template,
        described.prompts,
        described.unit_vectors,
        described.recipe,
    )
    digest.update(msgspec.json.encode([*read_off, described.pools_prompts, examples.calibration]))
    directory = Path(described.source)
    for path in files_of(directory):
        digest.update(f"\0{path.relative_to(directory)}\0{sha256_of(path)}".encode())
    return digest.hexdigest()
