"""The wire contract between webapp workers and the pusher: JSON frames over ZeroMQ. Imports nothing of ours.

A frame holds the events of one worker since its last frame. To change a field, add a golden frame under
`tests/fixtures/events/`; a change that an older reader would misread raises `VERSION`, and readers skip newer frames.
New fields with a default are no such change: readers ignore fields that they don't know.

Each `Progress` holds the whole state of a running request, and comes at least once a second: a pusher that was
restarted, or lost frames, is right again after that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec

VERSION = 1

OK = "ok"

USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Ids of requests that are logged, and can be followed; a caller's other id is replaced by one of ours."""

WorkerState = Literal["loading", "ready", "draining", "down"]
ReleaseState = Literal["running", "serving", "refused", "rolled back", "interrupted"]
BreakerState = Literal["closed", "open", "half_open"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    pass


class _OfRequest(_Event, frozen=True, kw_only=True):
    """The fields of every event of a request."""

    id: str
    """The request's id: the caller's X-Request-Id, or ours."""
    dialect: str
    pairs: int
    owner: str = ""
    """`owner_of` the key that made the request; empty where no keys are asked for."""


class Accepted(_OfRequest, frozen=True, kw_only=True, tag="accepted"):
    """A request was admitted; not sent for one that ended before the next frame."""

    query: str = ""
    """Empty unless RERANK_EVENTS_TEXT=1."""


class Progress(_OfRequest, frozen=True, kw_only=True, tag="progress"):
    """The progress of a running request; at most four times a second, at least once."""

    scored: int
    age_ms: float


class Finished(_OfRequest, frozen=True, kw_only=True, tag="finished"):
    """A request was answered, or failed after it was admitted."""

    status: str
    """`ok`, or the stable code of the error."""
    latency_ms: float
    field: str = ""
    """Where in the request the error is."""
    tokens: int = 0
    queue_ms: float = 0.0
    """Waiting for an engine thread."""
    tokenise_ms: float = 0.0
    score_ms: float = 0.0
    truncated: int = 0
    """Documents that were cut."""
    cached: int = 0
    """Documents whose scores were known."""
    degraded: bool = False
    """Answered by the lexical engine."""


class Shed(_OfRequest, frozen=True, kw_only=True, tag="shed"):
    """A request was refused at the door."""

    reason: str


class Rejected(_OfRequest, frozen=True, kw_only=True, tag="rejected"):
    """A request got an error before it could be admitted: it is not valid, too large, has no key, asks too often."""

    code: str
    """The stable code of the error."""
    http_status: int
    latency_ms: float
    field: str = ""
    """Where in the request the error is."""


class Expired(_OfRequest, frozen=True, kw_only=True, tag="expired"):
    """A request's time was over."""

    scored: int
    latency_ms: float


class Worker(_Event, frozen=True, kw_only=True, tag="worker"):
    """A worker came up, drains, or goes down."""

    state: WorkerState


class Breaker(_Event, frozen=True, kw_only=True, tag="breaker"):
    """A worker's circuit breaker changed. `Pulse` has its state; this shows what happens between two pulses."""

    was: BreakerState
    state: BreakerState


class Serves(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model that a worker serves."""

    model: str
    engine: str
    precision: str
    release: int = 0
    """Number of the release; 0 where there are none."""
    substitute_for: str = ""
    """The model that was asked for, when this one stands in for it."""


class Pulse(_Event, frozen=True, kw_only=True, tag="pulse"):
    """A worker's vital signs, once a second."""

    state: WorkerState
    queue_pairs: int
    queue_tokens: int
    """Tokens that wait; an estimate where documents are not tokenised yet."""
    in_flight: int
    """Requests at work."""
    pairs_per_s: float
    batch_fill: float | None = None
    """Share of the token budget that batches used since the last pulse; None without a batch."""
    cache_hit_ratio: float | None = None
    """Since the last pulse; None when nothing was looked up, or there is no cache."""
    breaker: BreakerState = "closed"
    degraded: bool = False
    hub_lag_ms: float = 0.0
    """The longest that the event loop was late since the last pulse."""
    rss_bytes: int = 0
    dropped_events: int = 0
    """Events that this worker dropped since it started."""
    serves: Serves | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step of a deploy."""

    name: str
    state: Literal["running", "done", "failed"]
    said: str = ""
    """Its result, or its error."""
    took_s: float = 0.0


class Release(_Event, frozen=True, kw_only=True, tag="release"):
    """The whole state of a deploy or a rollback, when a step begins or ends. Sent by the command, not by a worker."""

    number: int
    color: str = msgspec.field(name="colour")
    """Its release slot. On the wire it keeps its first spelling: versions of both sides mix during an upgrade."""
    what: str
    """Model and settings, in words."""
    began: float
    """Unix time."""
    at: float = 0.0
    """Unix time of this state."""
    state: ReleaseState = "running"
    steps: list[Step] = []


Event = Accepted | Progress | Finished | Shed | Rejected | Expired | Worker | Breaker | Pulse | Release


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sender of a frame."""

    id: str
    """Unique to one process of one worker."""
    pid: int
    color: str = msgspec.field(name="colour", default="")
    """Release slot, where there are two."""
    host: str = ""
    """Name of the machine, container or pod: several may send to one pusher, and their pids may be equal."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One ZeroMQ message."""

    v: int
    source: Source
    seq: int
    """Counts a source's frames from 0, so that lost ones can be counted."""
    events: list[Event]


class FrameError(ValueError):
    """A frame that is to be skipped."""

    why: str


class MalformedFrameError(FrameError):
    """The frame is not of this contract."""

    why = "malformed"


class NewerFrameError(FrameError):
    """The frame is of a later version of this contract."""

    why = "newer"


class _Head(msgspec.Struct, frozen=True):
    v: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Frame)
_head_decoder = msgspec.json.Decoder(_Head)


def encode(source: Source, seq: int, events: list[Event]) -> bytes:
    """Return a frame as bytes."""
    return _encoder.encode(Frame(v=VERSION, source=source, seq=seq, events=events))


def decode(message: bytes) -> Frame:
    """Return the frame in a message.

    Raises:
        NewerFrameError: a later version wrote it.
        MalformedFrameError: anything else that is not a frame.
    """
    try:
        frame = _decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _is_newer(message):
            raise NewerFrameError(str(error)) from error
        raise MalformedFrameError(str(error)) from error
    if frame.v != VERSION:
        raise NewerFrameError(f"version {frame.v}, this is {VERSION}")
    return frame


def _is_newer(message: bytes) -> bool:
    try:
        return _head_decoder.decode(message).v > VERSION
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


class Headers(Protocol):
    """Headers of a request, looked up whatever their case."""

    def get(self, name: str, default: str, /) -> str:
        """Return a header's value."""


def keys_in(headers: Headers) -> Iterator[str]:
    """Return what may be the API key of a request, in every spelling that clients use.

    `Authorization: Bearer k` (most), `Authorization: k` (llama-index' TEI adds no "Bearer"), `x-api-key` (Continue,
    llama.cpp), `Api-Key` (Pinecone). Names of headers are looked up whatever their case.
    """
    if authorization := headers.get("Authorization", "").strip():
        scheme, _, token = authorization.partition(" ")
        yield token.strip() if scheme.lower() == "bearer" and token else authorization
    for name in ("X-Api-Key", "Api-Key"):
        if given := headers.get(name, "").strip():
            yield given


def owner_of(key: str) -> str:
    """Return the label of an API key in events; the key can't be got back from it."""
    return hashlib.sha256(b"reranking-owner\0" + key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
