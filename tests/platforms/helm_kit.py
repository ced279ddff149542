"""The chart under Helm's own code, and sets of values that operators give it."""

import re
import subprocess
from functools import cache
from typing import Any

import helm_chart
import pytest
import yaml

KEYS = {"api_keys": {"secret": "keys", "key": "api-keys"}, "operator_keys": {"secret": "keys", "key": "operators"}}

SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a card": {"gpu": {"count": 1}, "nodeSelector": {"gpu": "yes"}, "tolerations": [{"key": "nvidia.com/gpu"}]},
    "hpa": {"autoscaling": {"kind": "hpa", "maxReplicas": 20}},
    "keda": {"autoscaling": {"kind": "keda", "keda": {"prometheus": "http://prometheus.monitoring.svc:9090"}}},
    "ingress": {"ingress": {"enabled": True, "host": "rerank.example", "className": "nginx", "tlsSecret": "tls"}},
    "no shared pusher": {"pusher": {"shared": False}},
    "keys": {"secrets": KEYS, "pusher": {"eventsKey": {"secret": "keys", "key": "events"}}},
    "redis and traces": {
        "secrets": {"redis_url": {"secret": "redis", "key": "url", "port": 6380}},
        "settings": {"otel_endpoint": "http://collector.monitoring:4318"},
    },
    "a monitor": {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
    "settings of all types": {
        "settings": {
            "max_queued_tokens": 32_000_000,
            "gate_min_tau": 0.85,
            "strict_model": True,
            "served_model_name": ["a", "b"],
            "model": "cross-encoder/ms-marco-MiniLM-L6-v2",
            "request_timeout_s": 1000,
            "tls": "self-signed",
        }
    },
    "everything else": {
        "replicas": 1,
        "image": {"repository": "registry.example/reranking", "tag": "1"},
        "imagePullSecrets": [{"name": "registry"}],
        "env": [{"name": "HF_ENDPOINT", "value": "http://hub.example"}],
        "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
        "rollout": {"maxUnavailable": 1, "maxSurge": 0},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "networkPolicy": {
            "callers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}],
            "hub": True,
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        },
        "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "podAnnotations": {"a": "b"},
        "fullnameOverride": "ranking",
    },
}
"""Values by what they show."""


@cache
def helm():
    """Return Helm's Python package, or skip the test."""
    try:
        return helm_chart.load_helm()
    except (subprocess.CalledProcessError, ImportError, OSError):
        pytest.skip(f"{helm_chart.HELM} can't be installed here")


def rendered(values: dict[str, Any] | None = None, name: str = "reranking", **options: Any) -> list[dict]:
    """Return the objects that the chart makes of the values."""
    helm()
    made = helm_chart.render(values, name, **options)
    return [part for file, text in made.items() if file != "NOTES.txt" for part in yaml.safe_load_all(text) if part]


def only(objects: list[dict], kind: str, suffix: str = "") -> dict:
    """Return the one object of a kind whose name ends so; without a suffix, the one that is not the pusher's."""
    found = [
        each
        for each in objects
        if each["kind"] == kind
        and (each["metadata"]["name"].endswith(suffix) if suffix else "pusher" not in each["metadata"]["name"])
    ]
    assert len(found) == 1, (kind, suffix, [each["metadata"]["name"] for each in objects])
    return found[0]


def container_of(deployment: dict) -> dict:
    """Return its one container."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def variables(deployment: dict, secrets: str = "x" * 40) -> dict[str, str]:
    """Return the variables of its container; secret ones have a placeholder."""
    placeholders = {"RERANK_REDIS_URL": "redis://redis:6380/0"}
    return {
        each["name"]: each.get("value") or placeholders.get(each["name"], secrets)
        for each in container_of(deployment)["env"]
    }


def pods_of(text: str) -> re.Pattern[str]:
    """Return the pattern of pods' names in a query of Prometheus, which anchors it at both ends."""
    return re.compile(re.search(r'pod=~"([^"]+)"', text)[1])
