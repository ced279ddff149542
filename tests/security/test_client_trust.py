"""Our client, and the command line that uses it, at a certificate that nobody signed."""

import subprocess
import sys

import pytest
from reranking_client import RerankClient, UntrustedError
from running import PATIENCE_S

pytestmark = pytest.mark.slow


def test_a_certificate_is_trusted_when_it_is_named_and_only_then(secured):
    with RerankClient(secured.url, key=secured.keys["search"], trust=secured.cert) as client:
        assert len(client.rerank("q", ["a", "b"]).results) == 2
    with RerankClient(secured.url) as client, pytest.raises(UntrustedError, match="not trusted: self-signed") as failed:
        client.rerank("q", ["a"])
    assert len(failed.value.tries) == 1


@pytest.mark.parametrize(
    ("options", "variables", "code", "said"),
    [
        ([], {}, 0, ""),
        (["--url", "URL", "--ca-file", "CERT"], {"RERANK_KEY": "of-the-setting"}, 0, ""),
        (["--url", "URL"], {"RERANK_KEY": "of-the-setting"}, 1, "; --ca-file names a certificate to trust"),
    ],
)
def test_the_command_line_knows_its_own_certificate_and_takes_others(secured, options, variables, code, said):
    places = {"URL": secured.url, "CERT": str(secured.cert)}
    outcome = subprocess.run(
        [sys.executable, "-m", "webapp", "rerank", "bees", *(places.get(each, each) for each in options)],
        input="milk\nbees\n",
        env={**secured.stack._environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (outcome.returncode, said in outcome.stderr) == (code, True), outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
