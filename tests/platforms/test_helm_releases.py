"""Releases of the chart, installed, upgraded and rolled back by Helm's own code in a stand-in for a cluster."""

import json

import helm_chart
import pytest
from cluster_kit import Cluster
from helm_kit import SETS, helm

pytestmark = pytest.mark.platforms

STOOD_IN_FOR = [name for name in SETS if name not in {"keda", "a monitor"}]
"""The stand-in knows no custom resources."""


@pytest.fixture
def cluster():
    with Cluster() as running:
        yield running


@pytest.fixture
def releases(cluster):
    """Return Helm, connected to the stand-in."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": cluster.url}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "", "namespace": "default"}}],
        "current-context": "a",
    }
    with helm().Config(kubeconfig_content=json.dumps(kubeconfig), storage_driver="memory") as config:
        yield config


def test_a_release_goes_through_every_set_of_values_and_back_with_the_same_selectors(cluster, releases):
    releases.install(helm_chart.CHART, "reranking", {})
    first = cluster.kept("Deployment")
    for name in STOOD_IN_FOR:
        values = {key: value for key, value in SETS[name].items() if key != "fullnameOverride"}
        releases.upgrade(helm_chart.CHART, "reranking", values)  # the stand-in refuses another selector
    releases.rollback("reranking", version=1)
    assert cluster.kept("Deployment") == first


def test_the_key_of_events_is_made_once_and_kept_by_upgrades_and_rollbacks(cluster, releases):
    releases.install(helm_chart.CHART, "reranking", {})
    (made,) = cluster.kept("Secret").values()
    releases.upgrade(helm_chart.CHART, "reranking", {"replicas": 3})
    assert cluster.kept("Secret") == {"reranking-events": made}
    releases.rollback("reranking")
    assert cluster.kept("Secret") == {"reranking-events": made}


def test_two_releases_have_keys_of_their_own(cluster, releases):
    for name in ("reranking", "other"):
        releases.install(helm_chart.CHART, name, {})
    keys = [secret["data"]["events-key"] for secret in cluster.kept("Secret").values()]
    assert len(set(keys)) == 2


def test_a_secret_that_is_named_is_used_and_none_is_made(cluster, releases):
    releases.install(helm_chart.CHART, "reranking", SETS["keys"])
    assert cluster.kept("Secret") == {}
