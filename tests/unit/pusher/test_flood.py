"""More requests than the pusher follows."""

from contracts.events import VERSION, Accepted, Finished, Frame, Progress, Source
from pusher.relay import MOST_RUNNING, Relay
from pusher.runs import SILENT_S

NOW = 1000.0
NAMES = [str(number) for number in range(MOST_RUNNING)]


class Crowd:
    """A worker that has as many requests at work as are followed, and a relay that knows them."""

    def __init__(self):
        self.relay = Relay(NOW)
        self._seq = 0
        self.say([Accepted(id=name, dialect="native", pairs=100) for name in NAMES], NOW)

    def say(self, events, at):
        source = Source(id="w", pid=1)
        self.relay.take(Frame(v=VERSION, source=source, seq=self._seq, events=events), at)
        self._seq += 1

    def progress(self, scored, names):
        told = [Progress(id=name, dialect="native", pairs=100, scored=scored, age_ms=1.0) for name in names]
        self.say(told, NOW + scored)


def test_at_the_limit_of_running_requests_each_known_one_still_progresses():
    crowd = Crowd()
    for second in range(1, 2 * int(SILENT_S)):
        crowd.progress(second, [*NAMES, "one too many"])
        updates, _ = crowd.relay.tick(NOW + second)
        told = {(update.id, update.state["status"], update.state["scored"]) for update in updates}
        assert told == {(name, "running", second) for name in NAMES}
        assert crowd.relay.counts()["ignored"] == second


def test_the_place_of_a_request_that_ended_goes_to_the_next_new_one():
    crowd = Crowd()
    crowd.progress(1, ["one too many"])
    crowd.say([Finished(id="7", dialect="native", pairs=100, status="ok", latency_ms=1.0)], NOW + 1)
    crowd.progress(2, ["one too many", "another"])
    updates, _ = crowd.relay.tick(NOW + 2)
    assert ("one too many", 2) in {(update.id, update.state["scored"]) for update in updates}
    assert crowd.relay.counts()["running"] == MOST_RUNNING
    assert crowd.relay.counts()["ignored"] == 2
