"""A large request's tokens are made and freed as it is scored: what is in memory follows the batch, not the request."""

import weakref

import pytest
from scheduling_kit import Rig

from webapp.engine.runtimes.stub import StubEngine, StubSession

WORDS = "bees find home by the sun and by the polarised light of the sky " * 4


class Counted(StubEngine):
    """Knows how many documents' token ids are alive."""

    def __init__(self):
        self.alive = self.most = 0

    def open_session(self):
        engine = self

        class Session(StubSession):
            def encode_documents(self, query, documents):
                ids, lengths, truncated = super().encode_documents(query, documents)
                for each in ids:
                    engine.alive += 1
                    engine.most = max(engine.most, engine.alive)
                    weakref.finalize(each, engine.free)
                return ids, lengths, truncated

        return Session()

    def free(self):
        self.alive -= 1


@pytest.mark.parametrize("documents", [3_000, 12_000])
def test_tokens_in_memory_are_bounded_whatever_the_size_of_a_request(documents):
    engine = Counted()
    with Rig(engine, threads=1) as rig:
        ticket = rig.score("q", [f"{number} {WORDS}" for number in range(documents)])
        assert ticket.succeeded
        assert 0 < engine.most < 1_500, "half of the smaller request"
        del ticket
    assert engine.alive < 100
