"""Objects of Kubernetes, held strictly to their schemas: Kubernetes' own, and small ones of ours for custom resources.

Kubernetes drops a field that it does not know, with a warning at most.
"""

from typing import Any

import jsonschema
import kubernetes_validate

VERSIONS = ("1.27", "1.37")
"""The oldest Kubernetes that we name, and the newest that has schemas."""


def check(found: dict[str, Any], version: str = VERSIONS[-1]) -> None:
    """Check an object of any kind that ships.

    Raises:
        jsonschema.ValidationError: a field is unknown, missing or of another type.
    """
    if found["kind"] not in OTHERS:
        kubernetes_validate.validate(found, version, strict=True)
        return
    jsonschema.validate(found, OTHERS[found["kind"]])
    spec = found["spec"]
    if found["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **group["template"]}
            kubernetes_validate.validate(pod, version, strict=True)
    if found["kind"] == "ScaledObject" and "advanced" in spec:
        scaler = {"maxReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "a"}}
        scaler |= spec["advanced"]["horizontalPodAutoscalerConfig"]
        hpa = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": scaler}
        kubernetes_validate.validate(hpa, version, strict=True)


def _fields(*required: str, **fields: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields alone."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def _object(kind: str, api_version: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    kinds = {"apiVersion": {"const": api_version}, "kind": {"const": kind}}
    return _fields("apiVersion", "kind", "metadata", "spec", metadata=metadata, spec=spec, **kinds)


ANY: dict[str, Any] = {}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
SWITCH = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}

TEMPLATE = {"type": "object", "required": ["spec"]}
"""Of a pod: Kubernetes' own schema checks it."""

OTHERS: dict[str, dict[str, Any]] = {
    # github.com/ray-project/kuberay, ray-operator/config/crd/bases/ray.io_rayservices.yaml
    "RayService": _object(
        "RayService",
        "ray.io/v1",
        _fields(
            "rayClusterConfig",
            upgradeStrategy=_fields(type={"enum": ["NewCluster", "None"]}),
            rayClusterDeletionDelaySeconds=COUNT,
            excludeHeadPodFromServeSvc=SWITCH,
            serveConfigV2=TEXT,
            rayClusterConfig=_fields(
                "headGroupSpec",
                rayVersion=TEXT,
                enableInTreeAutoscaling=SWITCH,
                autoscalerOptions=_fields(idleTimeoutSeconds=COUNT),
                headGroupSpec=_fields("template", rayStartParams=TEXTS, template=TEMPLATE),
                workerGroupSpecs={
                    "type": "array",
                    "items": _fields(
                        *("groupName", "minReplicas", "maxReplicas", "template"),
                        groupName=TEXT,
                        replicas=COUNT,
                        minReplicas=COUNT,
                        maxReplicas=COUNT,
                        rayStartParams=TEXTS,
                        template=TEMPLATE,
                    ),
                },
            ),
        ),
    ),
    # github.com/kedacore/keda, config/crd/bases/keda.sh_scaledobjects.yaml; keda.sh/docs has the trigger's metadata
    "ScaledObject": _object(
        "ScaledObject",
        "keda.sh/v1alpha1",
        _fields(
            *("scaleTargetRef", "triggers"),
            scaleTargetRef=_fields("name", name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            advanced=_fields(horizontalPodAutoscalerConfig=_fields(behavior=ANY)),
            triggers={
                "type": "array",
                "minItems": 1,
                "items": _fields(
                    *("type", "metadata"),
                    type={"const": "prometheus"},
                    metricType={"enum": ["AverageValue", "Value"]},
                    metadata=_fields(
                        *("serverAddress", "query", "threshold"),
                        serverAddress=TEXT,
                        query=TEXT,
                        threshold={"type": "string", "pattern": "^[0-9.]+$"},
                        ignoreNullValues={"enum": ["true", "false"]},
                    ),
                ),
            },
        ),
    ),
    # github.com/prometheus-operator/prometheus-operator, monitoring.coreos.com_servicemonitors.yaml
    "ServiceMonitor": _object(
        "ServiceMonitor",
        "monitoring.coreos.com/v1",
        _fields(
            *("endpoints", "selector"),
            selector=_fields("matchLabels", matchLabels=TEXTS),
            endpoints={
                "type": "array",
                "minItems": 1,
                "items": _fields(
                    port=TEXT,
                    path=TEXT,
                    interval=SECONDS,
                    scheme={"enum": ["http", "https"]},
                    tlsConfig=_fields(insecureSkipVerify=SWITCH),
                ),
            },
        ),
    ),
}
"""Schemas of custom resources by their kind. They have what we use; look a new field up in the file that is named."""
