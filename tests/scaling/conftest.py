import json

import pytest
from running import Stack


class Balancer(Stack):
    """`reranking balance` in a process of its own."""

    command = ("balance",)

    def lines(self):
        """Return the lines that it logged of requests."""
        return [json.loads(line) for line in self._output.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def make_balancer(tmp_path_factory):
    """Makes a balancer before these stacks."""

    def make(stacks, **options):
        addresses = ",".join(stack.url for stack in stacks)
        return Balancer(tmp_path_factory.mktemp("balancer"), stacks=addresses, log_level="info", **options)

    return make
