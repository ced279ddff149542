"""The contract, by golden frames: a change that these don't survive needs a new version."""

import json
from pathlib import Path

import msgspec
import pytest

from contracts import events

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "events"

SOURCE = events.Source(id="0123456789ab", pid=42, color="blue")
OF = {"id": "req-1", "dialect": "native", "pairs": 20, "owner": "f00d"}

FRAMES = {
    "accepted": events.Accepted(**OF),
    "accepted-with-text": events.Accepted(**OF, query="how do bees find home"),
    "progress": events.Progress(**OF, scored=7, age_ms=250.5),
    "finished": events.Finished(**OF, status="ok", latency_ms=512.25, truncated=1, cached=3, degraded=True),
    "failed": events.Finished(**OF, status="engine_failed", latency_ms=3.0),
    "shed": events.Shed(**OF, reason="full"),
    "finished-with-phases": events.Finished(
        **OF, status="ok", latency_ms=512.25, tokens=812, queue_ms=1.5, tokenise_ms=2.25, score_ms=500.0
    ),
    "rejected": events.Rejected(**OF, code="invalid_request", http_status=400, latency_ms=0.25, field="documents[3]"),
    "expired": events.Expired(**OF, scored=7, latency_ms=300000.0),
    "release": events.Release(
        number=7,
        color="green",
        what="cross-encoder/ms-marco-MiniLM-L6-v2 with WORKERS=2",
        began=1795240000.125,
        at=1795240007.5,
        steps=[
            events.Step(name="prepare", state="done", said="artifact ms-marco-MiniLM-L6-v2-0123456789ab", took_s=1.5),
            events.Step(name="gate", state="running"),
        ],
    ),
    "release-refused": events.Release(
        number=8,
        color="green",
        what="stub",
        began=1795240000.125,
        at=1795240001.0,
        state="refused",
        steps=[events.Step(name="room", state="failed", said="two colors don't fit", took_s=0.1)],
    ),
    "worker": events.Worker(state="draining"),
    "breaker": events.Breaker(was="closed", state="open"),
    "pulse-that-names-its-model": events.Pulse(
        state="ready",
        queue_pairs=0,
        queue_tokens=0,
        in_flight=0,
        pairs_per_s=0.0,
        serves=events.Serves(
            model="sentence-transformers/all-MiniLM-L6-v2",
            engine="native",
            precision="int8",
            release=7,
            substitute_for="cross-encoder/ms-marco-MiniLM-L6-v2",
        ),
    ),
    "pulse": events.Pulse(
        state="ready",
        queue_pairs=120,
        queue_tokens=9000,
        in_flight=3,
        pairs_per_s=98.5,
        batch_fill=0.75,
        cache_hit_ratio=0.5,
        breaker="half_open",
        degraded=True,
        hub_lag_ms=4.5,
        rss_bytes=200_000_000,
        dropped_events=2,
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_golden_frame_is_written_and_read_as_ever(name):
    golden = (GOLDEN / f"{name}.json").read_bytes().rstrip()
    assert json.loads(events.encode(SOURCE, 7, [FRAMES[name]])) == json.loads(golden)
    assert events.decode(golden) == events.Frame(v=events.VERSION, source=SOURCE, seq=7, events=[FRAMES[name]])


def test_every_golden_frame_is_one_that_we_know():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(FRAMES)


def test_a_source_that_names_its_host_is_read_by_those_who_know_no_hosts():
    class OlderSource(msgspec.Struct):
        id: str
        pid: int
        colour: str = ""

    class OlderFrame(msgspec.Struct):
        source: OlderSource

    source = events.Source(id="a", pid=1, color="blue", host="pod-1")
    message = events.encode(source, 0, [])
    assert msgspec.json.decode(message, type=OlderFrame).source == OlderSource(id="a", pid=1, colour="blue")
    assert events.decode(message).source == source
    assert b"host" not in events.encode(SOURCE, 0, [])


def test_fields_that_a_later_writer_adds_are_ignored():
    frame = json.loads((GOLDEN / "shed.json").read_text())
    frame["events"][0]["mood"] = "sorry"
    frame["region"] = "eu"
    assert events.decode(json.dumps(frame).encode()).events == [FRAMES["shed"]]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'{"v": 1}',
        b'{"v": "1"}',
        b"\x00" * 1000,
        b'{"v":1,"source":{"id":"a","pid":1},"seq":0,"events":[{"type":"unheard-of"}]}',
        b'{"v":1,"source":{"id":"a","pid":1},"seq":0,"events":[{"type":"shed","id":"x"}]}',
    ],
)
def test_rubbish_is_malformed(message):
    with pytest.raises(events.MalformedFrameError):
        events.decode(message)


@pytest.mark.parametrize(
    "message",
    [
        b'{"v":2,"source":{"id":"a","pid":1},"seq":0,"events":[]}',
        b'{"v":2,"from":"elsewhere","events":[{"type":"unheard-of"}]}',
    ],
)
def test_a_later_version_is_told_apart_from_rubbish(message):
    with pytest.raises(events.NewerFrameError):
        events.decode(message)


def test_an_owner_is_stable_and_holds_nothing_of_the_key():
    assert events.owner_of("secret-key") == events.owner_of("secret-key") != events.owner_of("secret-kez")
    assert "secret" not in events.owner_of("secret-key")
