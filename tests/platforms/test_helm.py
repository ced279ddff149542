"""The Helm chart, linted and rendered by Helm's own code. tests/unit/test_chart.py has what needs no Helm."""

import dataclasses
import json
import re
import subprocess
from urllib.parse import urlsplit

import helm_chart
import pytest
import yaml
from helm_kit import KEYS, SETS, container_of, helm, only, pods_of, rendered, variables

from pusher.settings import Settings as PusherSettings
from webapp.api.probes import LIVE, READY
from webapp.config.settings import STOP_GRACE_S, Settings, load_settings

pytestmark = pytest.mark.platforms

ALL = pytest.mark.parametrize("values", SETS.values(), ids=SETS)

NOTICE_S = 10


def deployments(values, **options):
    return [each for each in rendered(values, **options) if each["kind"] == "Deployment"]


@ALL
def test_helm_finds_nothing_to_say_about_the_chart(values):
    report = helm().lint(helm_chart.CHART, values, strict=True)
    assert report["errors"] == []
    assert [told["error"] for told in report["messages"]] == ["icon is recommended"]


WRONG = {
    "a typing error": ({"replica": 3}, "'replica'"),
    "a typing error further in": ({"pusher": {"share": True}}, "'share'"),
    "negative replicas": ({"replicas": -1}, "/replicas"),
    "text for a number": ({"replicas": "two"}, "/replicas"),
    "an unknown kind of autoscaling": ({"autoscaling": {"kind": "vpa"}}, "/autoscaling/kind"),
    "keda without Prometheus": ({"autoscaling": {"kind": "keda"}}, "/autoscaling/keda/prometheus"),
    "a least number of no pods": ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
    "an ingress without a host": ({"ingress": {"enabled": True}}, "/ingress/host"),
    "no setting": ({"settings": {"worker": 2}}, "'worker'"),
    "a setting of another type": ({"settings": {"workers": "many"}}, "/settings/workers"),
    "a setting beyond its limits": ({"settings": {"request_timeout_s": 0}}, "/settings/request_timeout_s"),
    "a setting that the chart sets": ({"settings": {"state_dir": "/data"}}, "'state_dir'"),
    "a secret in clear": ({"settings": {"api_keys": "key"}}, "'api_keys'"),
    "a secret that is none": ({"secrets": {"model": {"secret": "a", "key": "b"}}}, "'model'"),
    "a secret without its key": ({"secrets": {"api_keys": {"secret": "a"}}}, "'key'"),
    "a setting as a variable": ({"env": [{"name": "RERANK_WORKERS", "value": "2"}]}, "/env/0/name"),
    "a budget that stops every drain": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget"),
    "a budget of 0 percent": ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "/podDisruptionBudget"),
    "a rollout that can't begin": ({"rollout": {"maxUnavailable": 0, "maxSurge": 0}}, "/rollout"),
    "a name that is too long": ({"fullnameOverride": "a" * 60}, "/fullnameOverride"),
}


@pytest.mark.parametrize(("values", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_refused_by_name(values, named):
    with pytest.raises(helm().HelmValuesError, match=re.escape(named)):
        rendered(values)


@ALL
def test_the_service_and_the_pusher_start_with_the_variables_that_they_get(values, monkeypatch):
    for deployment in deployments(values):
        with monkeypatch.context() as environment:
            for name, value in variables(deployment).items():
                environment.setenv(name, value)
            settings = load_settings()  # unknown names and wrong values refuse to start
            for name, value in values.get("settings", {}).items():
                if f"RERANK_{name.upper()}" in variables(deployment):
                    wanted = ",".join(value) if isinstance(value, list) else value
                    assert getattr(settings, name) == wanted


def test_the_pusher_gets_every_setting_that_it_reads_and_no_secret_besides():
    read = {field.name for field in dataclasses.fields(PusherSettings)} & set(Settings.model_fields) - {"color"}
    settings = {"dashboard_origins": "http://a", "api_keys_file": "/k", "log_level": "debug", "log_format": "json"}
    secrets = KEYS | {"redis_url": {"secret": "redis", "key": "url"}}
    pusher = only(rendered({"settings": settings, "secrets": secrets}), "Deployment", "-pusher")
    assert set(variables(pusher)) == {f"RERANK_{name.upper()}" for name in read}


@ALL
def test_probes_ask_what_the_service_answers_by_the_scheme_that_it_speaks(values):
    deployment = only(rendered(values), "Deployment")
    probes = [container_of(deployment)[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes[0]["path"] in READY
    assert probes[1]["path"] in READY
    assert probes[2]["path"] in LIVE
    scheme = "HTTPS" if values.get("settings", {}).get("tls") else "HTTP"
    assert {probe["scheme"] for probe in probes} == {scheme}


@ALL
def test_each_port_that_is_named_is_one_that_a_container_has(values):
    objects = rendered(values)
    listening = {
        each["metadata"]["name"]: {port["name"]: port["containerPort"] for port in container_of(each)["ports"]}
        for each in objects
        if each["kind"] == "Deployment"
    }
    services = {each["spec"]["selector"]["app"]: each["spec"]["ports"] for each in objects if each["kind"] == "Service"}
    assert set(services) == set(listening)
    for name, ports in services.items():
        assert {port["targetPort"] for port in ports} == set(listening[name])
    server = only(objects, "Deployment")
    assert listening[server["metadata"]["name"]] == {"http": Settings.model_fields["port"].default}
    addresses = [value for value in variables(server).values() if ".svc." in value and "pusher" in value]
    if shared := values.get("pusher", {}).get("shared", True):
        name = server["metadata"]["name"] + "-pusher"
        assert {urlsplit(address).hostname for address in addresses} == {f"{name}.default.svc.cluster.local"}
        assert {urlsplit(address).port for address in addresses} == set(listening[name].values())
    assert len(addresses) == 2 * shared


@ALL
def test_a_policy_lets_callers_in_and_the_replicas_alone_to_the_pusher(values):
    objects = rendered(values)
    server = only(objects, "Deployment")["metadata"]["labels"]["app"]
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"app": server}}
    (calls,) = policy["ingress"]
    assert calls["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert calls.get("from", []) == values.get("networkPolicy", {}).get("callers", [])
    ports = {port["port"] for rule in policy["egress"] for port in rule.get("ports", ())}
    assert 53 in ports
    if values.get("pusher", {}).get("shared", True):
        pusher = only(objects, "NetworkPolicy", "-pusher")["spec"]
        (way,) = pusher["ingress"]
        listening = container_of(only(objects, "Deployment", "-pusher"))["ports"]
        assert {port["port"] for port in way["ports"]} == {port["containerPort"] for port in listening} <= ports
        assert way["from"] == [{"podSelector": {"matchLabels": {"app": server}}}]
        assert pusher["egress"] == []


def test_a_policy_lets_pods_reach_what_their_settings_name():
    ports = {
        port["port"]
        for rule in only(rendered(SETS["redis and traces"]), "NetworkPolicy")["spec"]["egress"]
        for port in rule["ports"]
    }
    assert ports == {53, 8081, 5557, 6380, 4318}
    others = {"settings": {"otel_endpoint": "https://otel.example"}, "networkPolicy": {"hub": True}}
    assert {"port": 443, "protocol": "TCP"} in only(rendered(others), "NetworkPolicy")["spec"]["egress"][-2]["ports"]


@ALL
def test_a_pod_may_do_nothing_that_it_does_not_need(values):
    for deployment in deployments(values):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert confined["allowPrivilegeEscalation"] is False
            assert "cpu" not in container.get("resources", {}).get("limits", {})


@pytest.mark.parametrize("timeout_s", [1, 300, 86_400])
def test_a_pod_has_the_time_to_finish_the_longest_requests(timeout_s):
    deployment = only(rendered({"settings": {"request_timeout_s": timeout_s}}), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    command = container_of(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:4] == ["reranking", "drain", "--notice-s", str(NOTICE_S)]
    assert pod["terminationGracePeriodSeconds"] > 2 * (timeout_s + STOP_GRACE_S) + NOTICE_S


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_disruption_budget_lets_a_node_be_drained_whatever_the_number_of_replicas(replicas):
    budget = only(rendered({"replicas": replicas}), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_pod_on_cards_has_a_worker_a_card_the_image_for_cards_and_time_to_prepare():
    deployment = only(rendered({"gpu": {"count": 2}}), "Deployment")
    container = container_of(deployment)
    assert container["image"].endswith("-gpu")
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 2}
    assert variables(deployment)["RERANK_WORKERS"] == "2"
    probe = container["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 1800 < deployment["spec"]["progressDeadlineSeconds"]
    chosen = only(rendered({"gpu": {"count": 2}, "settings": {"workers": 1}}), "Deployment")
    assert variables(chosen)["RERANK_WORKERS"] == "1"


@pytest.mark.parametrize("kind", ["none", "hpa", "keda"])
def test_one_alone_decides_on_the_number_of_pods(kind):
    keda = {"prometheus": "http://prometheus:9090"}
    objects = rendered({"autoscaling": {"kind": kind, "keda": keda}})
    kinds = {each["kind"] for each in objects} & {"HorizontalPodAutoscaler", "ScaledObject"}
    assert kinds == {"none": set(), "hpa": {"HorizontalPodAutoscaler"}, "keda": {"ScaledObject"}}[kind]
    assert ("replicas" in only(objects, "Deployment")["spec"]) == (kind == "none")
    assert only(objects, "Deployment", "-pusher")["spec"]["replicas"] == 1


def test_autoscaling_goes_by_the_busy_engine_first_and_by_the_age_of_the_queue_second():
    wanted = {"busyPercent": 60, "queueAgeSeconds": 2.5, "keda": {"prometheus": "http://prometheus:9090"}}
    hpa = only(rendered({"autoscaling": {"kind": "hpa", **wanted}}), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [each["pods"]["metric"]["name"] for each in hpa] == ["rerank_engine_busy_share", "rerank_queue_age_seconds"]
    assert [each["pods"]["target"]["averageValue"] for each in hpa] == ["600m", "2.5"]
    offered = yaml.safe_load((helm_chart.CHART.parent / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    names = [rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0] for rule in offered]
    assert names == [each["pods"]["metric"]["name"] for each in hpa]
    keda = only(rendered({"autoscaling": {"kind": "keda", **wanted}}), "ScaledObject")["spec"]["triggers"]
    assert ["busy_seconds" in keda[0]["metadata"]["query"], "queue_age" in keda[1]["metadata"]["query"]] == [True, True]
    assert [each["metadata"]["threshold"] for each in keda] == ["0.6", "2.5"]


SERIES = """
rerank_engine_busy_seconds_total{namespace="apps",pod="reranking-6d4cf56db6-abcde",instance="a"} 0+15x20
rerank_workers{namespace="apps",pod="reranking-6d4cf56db6-abcde",instance="a",state="ready"} 2x20
rerank_queue_age_seconds{namespace="apps",pod="reranking-6d4cf56db6-abcde",instance="a"} 3x20
rerank_engine_busy_seconds_total{namespace="apps",pod="reranking-6d4cf56db6-fghij",instance="b"} 0+3x20
rerank_workers{namespace="apps",pod="reranking-6d4cf56db6-fghij",instance="b",state="ready"} 1x20
rerank_queue_age_seconds{namespace="apps",pod="reranking-6d4cf56db6-fghij",instance="b"} 1x20
rerank_engine_busy_seconds_total{namespace="apps",pod="reranking-b-6d4cf56db6-klmno",instance="c"} 0+15x20
rerank_workers{namespace="apps",pod="reranking-b-6d4cf56db6-klmno",instance="c",state="ready"} 1x20
rerank_queue_age_seconds{namespace="apps",pod="reranking-b-6d4cf56db6-klmno",instance="c"} 9x20
rerank_engine_busy_seconds_total{namespace="other",pod="reranking-6d4cf56db6-pqrst",instance="d"} 0+15x20
rerank_workers{namespace="other",pod="reranking-6d4cf56db6-pqrst",instance="d",state="ready"} 1x20
rerank_queue_age_seconds{namespace="other",pod="reranking-6d4cf56db6-pqrst",instance="d"} 9x20
"""
"""Two pods of ours: of the first's two workers one is always busy, the second's is for a fifth of the time."""


def test_prometheus_answers_the_queries_of_autoscaling_with_the_figures_of_these_pods(tmp_path):
    autoscaling = {"kind": "keda", "keda": {"prometheus": "http://prometheus:9090"}}
    scaled = only(rendered({"autoscaling": autoscaling}, namespace="apps"), "ScaledObject")["spec"]["triggers"]
    pods = 'namespace="apps",pod=~"reranking-6d4cf56db6-abcde|reranking-6d4cf56db6-fghij"'
    adapter = yaml.safe_load((helm_chart.CHART.parent / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    asked = [
        rule["metricsQuery"]
        .replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        .replace("<<.LabelMatchers>>", pods)
        .replace("<<.GroupBy>>", "namespace,pod")
        for rule in adapter
    ]
    first, second = (f'{{namespace="apps", pod="reranking-6d4cf56db6-{pod}"}}' for pod in ("abcde", "fghij"))
    answers = [
        (scaled[0]["metadata"]["query"], {"{}": 0.7}),
        (scaled[1]["metadata"]["query"], {"{}": 4}),
        (asked[0], {first: 0.5, second: 0.2}),
        (asked[1], {first: 3, second: 1}),
    ]
    series = [line.rsplit(" ", 1) for line in SERIES.strip().splitlines()]
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "4m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
            }
            for expression, samples in answers
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    try:
        done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("promtool is not installed")
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_releases_in_a_namespace_share_nothing():
    here, there = (rendered({}, name=name) for name in ("reranking", "reranking-b"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (here, there)]
    assert names[0] & names[1] == set()
    selectors = [
        {each["spec"]["selector"]["matchLabels"]["app"] for each in objects if each["kind"] == "Deployment"}
        for objects in (here, there)
    ]
    assert selectors[0] & selectors[1] == set()
    autoscaling = {"kind": "keda", "keda": {"prometheus": "http://prometheus:9090"}}
    ours = pods_of(json.dumps(only(rendered({"autoscaling": autoscaling}), "ScaledObject")).replace('\\"', '"'))
    assert ours.fullmatch("reranking-6d4cf56db6-abcde")
    assert not ours.fullmatch("reranking-b-6d4cf56db6-abcde")
    assert not ours.fullmatch("reranking-pusher-6d4cf56db6-abcde")


@pytest.mark.parametrize("file", helm_chart.PLAIN_FILES)
def test_the_manifests_for_kubectl_are_what_the_chart_makes(file):
    helm()
    assert (helm_chart.PLAIN / file).read_text() == helm_chart.plain(file), "run: scripts/build-manifests"
