"""Connections of one address: however many it tries to hold, it gets its share, and others are answered."""

import pytest
from nemesis import connections
from nemesis.hostile import kinds
from running import Stack

pytestmark = pytest.mark.slow

PER_ADDRESS = 150


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    options = {"engine": "stub", "log_level": "info", "connections_per_address": str(PER_ADDRESS)}
    with Stack(tmp_path_factory.mktemp("held"), api_keys=connections.KEY, **options) as running:
        yield running


@pytest.mark.parametrize("kind", kinds(connections.KEY), ids=lambda kind: kind.name)
def test_one_address_holds_its_share_and_others_are_answered(stack, kind):
    """A tenth of what `scripts/nemesis --only connections` does."""
    row, figures = connections.hold(stack, kind, key=connections.KEY, each=1000, seconds=0)
    assert row.holds, row
    assert row.requests >= 200
    assert figures.ended >= 1000 - PER_ADDRESS  # those beyond the share were closed
