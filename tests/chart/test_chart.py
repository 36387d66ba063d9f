"""What the chart promises, as Helm 3 and Helm 4 render it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cases
import controllers
import helm
import pytest
import readme
import servers
import yaml
from servers import CHECKOUT

from uniqueid import __version__, config
from uniqueid.web import caching

HERE = Path(__file__).resolve().parent
CASES = cases.matrix()
NETWORK = {"url": cases.URL, "mysql": cases.MYSQL, "postgresql": cases.POSTGRESQL}


@pytest.fixture(params=helm.MAJORS, ids=["helm3", "helm4"])
def major(request: pytest.FixtureRequest) -> int:
    """Both versions of Helm."""
    return int(request.param)


@pytest.fixture(params=NETWORK)
def network(request: pytest.FixtureRequest) -> cases.Values:
    """Each way of naming a network database."""
    return NETWORK[request.param]


def selected(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector of labels matches."""
    return selector.items() <= labels.items()


# -- as a package --------------------------------------------------------------------------------


def test_both_versions_of_helm_are_what_they_say(major: int) -> None:
    """The tests really use Helm 3 and Helm 4."""
    assert helm.run(major, "version", "--short").stdout.startswith(f"v{major}.")


@pytest.mark.parametrize("name", ["defaults", "everything", "everything, mysql"])
def test_lint_is_quiet(major: int, name: str) -> None:
    """`helm lint --strict` finds nothing to warn of."""
    answer = helm.run(major, "lint", "--strict", str(helm.CHART), values=CASES[name])
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "WARNING" not in answer.stdout
    assert "ERROR" not in answer.stdout


def test_the_package_is_what_installs(major: int, tmp_path: Path) -> None:
    """The packaged chart renders what the directory does, and holds no file of the tests."""
    answer = helm.run(major, "package", str(helm.CHART), "-d", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    (package,) = tmp_path.glob("uniqueid-*.tgz")
    rendered = helm.run(major, "template", "uniqueid", str(package), "-n", "science")
    assert helm.parse(helm.without_time(rendered.stdout)) == helm.render({}, major)
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True)
    for name in ("values.schema.json", "README.md", "files/uwsgi.ini", "templates/NOTES.txt"):
        assert f"uniqueid/{name}\n" in listed.stdout


def test_a_dry_run_installs_without_a_value() -> None:
    """`helm install uniqueid charts/uniqueid` needs no value and says how to try the service."""
    answer = helm.run(4, "install", "uniqueid", str(helm.CHART), "--dry-run=client")
    assert answer.returncode == 0, answer.stderr
    notes = answer.stdout.partition("NOTES:")[2]
    assert "helm -n default test uniqueid" in notes
    assert "curl 'http://127.0.0.1:8051/getid?range=10&mode=try'" in notes
    assert "uniqueid-data" in notes


@pytest.mark.parametrize("values", [*NETWORK.values(), CASES["everything"]], ids=str)
def test_the_notes_render_with_every_database(values: cases.Values) -> None:
    """The notes never come with a hole in them."""
    answer = helm.run(4, "install", "ids", str(helm.CHART), "--dry-run=client", values=values)
    assert answer.returncode == 0, answer.stderr
    notes = answer.stdout.partition("NOTES:")[2]
    assert "port-forward" in notes
    assert "<no value>" not in notes
    assert "p@ss" not in notes


def test_the_chart_carries_the_release() -> None:
    """One version: the package's, the chart's, the image's tag and Artifact Hub's."""
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    pod = helm.service_pod(helm.render())
    assert {image["image"] for image in images} == {c["image"] for c in helm.containers(pod)}
    for name in ("links", "changes"):
        assert yaml.safe_load(chart["annotations"][f"artifacthub.io/{name}"])
    assert chart["kubeVersion"] == f">={helm.VERSIONS[0]}-0"


# -- every combination of values -----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_manifest_is_valid(name: str) -> None:
    """Both Helms render the same, strictly valid for the oldest and the newest Kubernetes."""
    manifests = helm.render(CASES[name], 4)
    assert manifests == helm.render(CASES[name], 3)
    helm.check(manifests)
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(names) == len(set(names)), "two objects of one name"


@pytest.fixture(scope="session")
def bare_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart without a default value."""
    copy = tmp_path_factory.mktemp("bare") / "uniqueid"
    shutil.copytree(helm.CHART, copy)
    (copy / "values.yaml").write_text("")
    return copy


@pytest.mark.parametrize("name", CASES)
def test_no_value_has_to_be_there(name: str, bare_chart: Path) -> None:
    """Values that a chart gains are absent after `helm upgrade --reuse-values`, and the manifests
    are valid without each of them."""
    values = CASES[name]
    if values.get("ingress", {}).get("enabled"):
        hosts = [{"paths": [{"path": "/", "pathType": "Prefix"}]}]
        values = helm.merge(values, {"ingress": {"hosts": hosts}})
    answer = helm.run(4, "template", "uniqueid", str(bare_chart), "-n", "science", values=values)
    assert answer.returncode == 0, answer.stderr
    manifests = helm.parse(answer.stdout)
    helm.check(manifests)
    for manifest in manifests:
        if manifest["metadata"]["name"].endswith("-data"):
            kept = manifest["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            assert kept == ("keep" if values.get("persistence", {}).get("keep", True) else None)


def test_every_custom_resource_is_valid() -> None:
    """Of every case: no field that its type does not have, and no value out of its bounds."""
    manifests: dict[str, helm.Manifest] = {}
    for values in CASES.values():
        for manifest in helm.render(values):
            if manifest["kind"] in helm.CUSTOM:
                manifests[json.dumps(manifest, sort_keys=True)] = manifest
    assert {manifest["kind"] for manifest in manifests.values()} == helm.CUSTOM
    assert helm.custom_problems(list(manifests.values())) == []


@pytest.mark.parametrize(
    ("case", "kind", "old", "new", "found"),
    [
        ("HTTPRoute", "HTTPRoute", '"hostnames"', '"hosts"', "'\"hosts\"' does not exist"),
        (
            "HTTPRoute",
            "HTTPRoute",
            '"backendRefs"',
            '"retry": {"attempts": 0}, "backendRefs"',
            ">= 1",
        ),
        ("HTTPRoute", "HTTPRoute", '"Pragma"', '"Pra gma"', "must match pattern"),
        ("ingress traefik", "Middleware", '"customResponseHeaders"', '"responseHeaders"', "exist"),
        ("ingress traefik", "ServersTransport", "-1", "-2", "must be >= -1"),
        ("metrics", "ServiceMonitor", '"scrapeTimeout"', '"timeout"', "does not exist"),
        ("metrics", "PrometheusRule", '"for": "', '"for": "about ', "must match pattern"),
    ],
)
def test_a_mistake_in_a_custom_resource_is_found(
    case: str, kind: str, old: str, new: str, found: str
) -> None:
    """The check of custom resources is strict, in every kind."""
    (manifest,) = [m for m in helm.render(CASES[case]) if m["kind"] == kind]
    text = json.dumps(manifest)
    assert old in text
    problems = helm.custom_problems([json.loads(text.replace(old, new))])
    assert any(found in problem for problem in problems), problems


@pytest.mark.parametrize("name", cases.REFUSED)
def test_a_wrong_combination_is_refused_with_what_to_set(major: int, name: str) -> None:
    """A release that could not work, or could hand out an ID twice, fails when it is rendered."""
    values, sentence = cases.REFUSED[name]
    said = helm.refusal(values, major)
    for part in sentence:
        assert part in said


def test_the_snapshot_of_the_defaults() -> None:
    """A change of the default manifests is seen in review; tests/chart/snapshot.py renews it."""
    answer = helm.run(4, "template", "uniqueid", str(helm.CHART), "-n", "science")
    now = helm.parse(helm.without_time(answer.stdout))
    assert now == helm.parse((HERE / "defaults.yaml").read_text())


# -- values, their schema and their documentation ------------------------------------------------


def _schema() -> Any:
    return json.loads((helm.CHART / "values.schema.json").read_text())


def _compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    properties = schema.get("properties")
    if properties is None:
        return
    assert schema["additionalProperties"] is False, path
    optional = {"probes": {"initialDelaySeconds", "successThreshold"}}
    allowed = optional.get(path.split(".")[0], set())
    if path != "settings":
        assert set(properties) - {"global"} - allowed == set(values), path
    for key, value in values.items():
        if isinstance(value, dict):
            _compare(value, properties[key], f"{path}.{key}".strip("."))


def test_the_schema_knows_exactly_the_values() -> None:
    """Every value is in the schema and the schema has no other."""
    _compare(yaml.safe_load((helm.CHART / "values.yaml").read_text()), _schema(), "")


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 2},
        {"database": {"hots": "db"}},
        {"settings": {"max_rnage": 5}},
        {"settings": {"url": "sqlite:////tmp/x"}},
        {"ingress": {"controller": "envoy"}},
        {"replicas": "2"},
        {"replicas": -1},
        {"service": {"port": 70000}},
        {"image": {"digest": "latest"}},
        {"persistence": {"accessModes": ["ReadOnlyMany"]}},
        {"probes": {"liveness": {"exec": {"command": ["true"]}}}},
        {"uwsgi": {"options": {"processes": 4}}},
        {"commonLabels": {"a": 1}},
        {"resources": {"request": {"cpu": 1}}},
        {"ingress": {"tls": [{"secret": "tls"}]}},
        {"maintenance": True},
        {"metrics": {"prometheusRule": {"runbookBaseURL": "docs"}}},
    ],
    ids=str,
)
def test_an_unknown_or_impossible_value_is_refused(major: int, values: cases.Values) -> None:
    """A mistyped value ends the installation instead of being ignored."""
    said = helm.refusal(values, major)
    assert "values don't meet the specifications of the schema" in said


def test_every_setting_of_the_service_can_be_a_value() -> None:
    """`settings` has the service's own settings, and no others; secrets and the fence have values
    of their own."""
    known = {row.name for row in config.rows() if row.section != "fence"}
    known -= {row.name for row in config.rows() if row.secret}
    assert set(_schema()["properties"]["settings"]["properties"]) == known


def test_the_readme_has_every_value() -> None:
    """The table in the README is what values.yaml says, and leaves nothing out."""
    text = (helm.CHART / "README.md").read_text()
    assert readme.written(text) == text, "run: python tests/chart/readme.py"
    described = readme.described()
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    for leaf in readme.leaves(values):
        parts = leaf.split(".")
        ancestors = {".".join(parts[: length + 1]) for length in range(len(parts))}
        assert ancestors & described.keys(), f"{leaf} has no description"


# -- without a value -----------------------------------------------------------------------------


def test_defaults_are_one_pod_with_sqlite_on_a_volume(major: int) -> None:
    """Without a value: one pod, replaced and never doubled, with its database on a claim."""
    manifests = helm.render({}, major)
    deployment = helm.one(manifests, "Deployment")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    pod = helm.service_pod(manifests)
    (data,) = [volume for volume in pod["volumes"] if volume["name"] == "data"]
    claim = helm.one(manifests, "PersistentVolumeClaim", "uniqueid-data")
    assert data["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    for container in helm.containers(pod):
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
        assert {
            "name": "UNIQUEID_DATABASE_URL",
            "value": "sqlite:////data/db.sqlite3",
        } in container["env"]
        assert "lifecycle" not in container
    kinds = sorted(manifest["kind"] for manifest in manifests)
    assert kinds == ["Deployment", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"]


def test_the_volume_outlives_the_release() -> None:
    """Uninstalling keeps the claim, unless persistence.keep is false."""
    claim = helm.one(helm.render(), "PersistentVolumeClaim", "uniqueid-data")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    values = {"persistence": {"keep": False}}
    claim = helm.one(helm.render(values), "PersistentVolumeClaim", "uniqueid-data")
    assert "annotations" not in claim["metadata"]


@pytest.mark.parametrize("database", [{}, cases.MYSQL], ids=["sqlite", "mysql"])
def test_the_fence_is_on_a_volume_of_its_own(database: cases.Values) -> None:
    """The claim stays when the release goes, the service alone has the volume, and an upgrade ends
    the old pod first."""
    manifests = helm.render(helm.merge(database, cases.FENCE))
    claim = helm.one(manifests, "PersistentVolumeClaim", "uniqueid-fence")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    spec = helm.one(manifests, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name": "UNIQUEID_FENCE_PATH", "value": "/fence/fence.json"} in container["env"]
    assert {"name": "fence", "mountPath": "/fence"} in container["volumeMounts"]
    assert "/fence" not in str(pod["initContainers"])
    claimed = {"claimName": "uniqueid-fence"}
    assert {"name": "fence", "persistentVolumeClaim": claimed} in pod["volumes"]


def test_several_fences_are_on_a_volume_each(network: cases.Values) -> None:
    """A StatefulSet in place of the Deployment, with the same pods: each on a claim of its own,
    which stays when the release or the pod goes; one that is not ready keeps none from starting."""
    manifests = helm.render(helm.merge(network, cases.FENCES))
    assert not {"Deployment", "PersistentVolumeClaim"} & {m["kind"] for m in manifests}
    spec = helm.one(manifests, "StatefulSet")["spec"]
    assert spec["replicas"] == 3
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "RollingUpdate"}
    retention = spec["persistentVolumeClaimRetentionPolicy"]
    assert retention == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["serviceName"] == helm.one(manifests, "Service")["metadata"]["name"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "fence"
    alone = helm.render(helm.merge(network, cases.FENCE))
    assert claim["spec"] == helm.one(alone, "PersistentVolumeClaim", "uniqueid-fence")["spec"]
    one = helm.one(alone, "Deployment")["spec"]["template"]
    claimed = {"name": "fence", "persistentVolumeClaim": {"claimName": "uniqueid-fence"}}
    one["spec"]["volumes"].remove(claimed)
    assert spec["template"] == one


@pytest.mark.parametrize("name", CASES)
def test_every_mount_has_its_volume(name: str) -> None:
    """What a container mounts is a volume of its pod, or a claim that a StatefulSet makes."""
    for manifest in helm.render(CASES[name]):
        claims = manifest.get("spec", {}).get("volumeClaimTemplates", [])
        for pod in helm.pods([manifest]):
            volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
            volumes += [claim["metadata"]["name"] for claim in claims]
            assert len(volumes) == len(set(volumes))
            for container in helm.containers(pod["spec"]):
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= set(volumes)


def test_the_labels_of_a_stateful_pod_fit() -> None:
    """Kubernetes labels it with the StatefulSet's name, a hyphen and ten characters: at most 63."""
    long = {"fullnameOverride": "x" * 51 + "-" + "y" * 40}
    manifests = helm.render(helm.merge(cases.MYSQL, cases.FENCES, long))
    (stateful,) = [m for m in manifests if m["kind"] == "StatefulSet"]
    assert stateful["metadata"]["name"] == "x" * 51


def test_the_notes_say_what_several_fences_need() -> None:
    """They name the StatefulSet and a pod of it, and the command that adopts its fence."""
    for values, kind in ((cases.MYSQL, "deployment"), (cases.FENCES, "statefulset")):
        values = helm.merge(cases.MYSQL, values)
        answer = helm.run(
            4, "install", "uniqueid", str(helm.CHART), "--dry-run=client", values=values
        )
        notes = answer.stdout.partition("NOTES:")[2]
        assert f"rollout status {kind}/uniqueid\n" in notes
        adopt = "exec uniqueid-0 -c uniqueid -- pacifica-uniqueid-cmd fence --adopt"
        assert (adopt in notes) == (kind == "statefulset")


def test_what_kubernetes_cannot_change_never_changes(tmp_path: Path) -> None:
    """An upgrade can be applied: names, selectors and the claim are those of the first release."""
    copy = tmp_path / "uniqueid"
    subprocess.run(["cp", "-r", helm.CHART, copy], check=True)
    chart = (copy / "Chart.yaml").read_text()
    later = chart.replace("version: 1.0.0", "version: 7.1.0").replace('"1.0.0"', '"7.1.0"')
    assert later != chart
    (copy / "Chart.yaml").write_text(later)
    answer = helm.run(4, "template", "uniqueid", str(copy), "-n", "science")
    now = helm.parse(helm.without_time(answer.stdout))
    first = helm.parse((HERE / "defaults.yaml").read_text())
    assert [(m["kind"], m["metadata"]["name"]) for m in now] == [
        (m["kind"], m["metadata"]["name"]) for m in first
    ]
    claim = "PersistentVolumeClaim"
    assert (
        helm.one(now, claim, "uniqueid-data")["spec"]
        == helm.one(first, claim, "uniqueid-data")["spec"]
    )
    old, new = helm.one(first, "Deployment")["spec"], helm.one(now, "Deployment")["spec"]
    assert old["selector"] == new["selector"]
    assert helm.one(first, "Service")["spec"] == helm.one(now, "Service")["spec"]


# -- with a network database ---------------------------------------------------------------------


def test_a_network_database_is_rolled_without_a_gap(network: cases.Values) -> None:
    """A pod more and none less, and a pod that ends serves until everyone knows."""
    manifests = helm.render(network)
    deployment = helm.one(manifests, "Deployment")["spec"]
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    pod = helm.service_pod(manifests)
    (container,) = pod["containers"]
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "6"]}}}
    assert pod["terminationGracePeriodSeconds"] >= 6 + 60
    assert not [m for m in manifests if m["kind"] == "PersistentVolumeClaim"]
    # Nothing to write to: a SQLite URL in the Secret fails instead of starting at 1 with each pod.
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "database-secret"}
    assert [volume for volume in pod["volumes"] if not {"emptyDir", "secret"} & set(volume)] == []


def test_replicas_spread_over_the_nodes(network: cases.Values) -> None:
    """Several replicas are kept apart where that is possible."""
    manifests = helm.render(helm.merge(network, {"replicas": 3}))
    assert helm.one(manifests, "Deployment")["spec"]["replicas"] == 3
    (spread,) = helm.service_pod(manifests)["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    labels = helm.one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert selected(spread["labelSelector"]["matchLabels"], labels)


@pytest.mark.parametrize("name", CASES)
def test_secrets_come_from_secrets_only(name: str) -> None:
    """A password is in no manifest but a Secret, and no variable has one."""
    manifests = helm.render(CASES[name])
    for manifest in manifests:
        assert manifest["kind"] == "Secret" or "p@ss%20w/rd" not in json.dumps(manifest)
    for pod in helm.pods(manifests):
        for container in helm.containers(pod["spec"]):
            for variable in container.get("env", []):
                assert "valueFrom" not in variable
                assert variable["name"] not in ("PEEWEE_PASS", "UNIQUEID_DATABASE_PASSWORD")


def test_an_inline_password_arrives_unchanged() -> None:
    """Characters that mean something in YAML or in a URL stay what they are."""
    secret = helm.one(helm.render(cases.POSTGRESQL), "Secret")
    assert secret["stringData"] == {"password": "p@ss%20w/rd: {x}"}


def test_an_autoscaler_decides_the_replicas(network: cases.Values) -> None:
    """With an autoscaler an upgrade does not set the number of pods back."""
    manifests = helm.render(helm.merge(network, {"autoscaling": {"enabled": True}}))
    assert "replicas" not in helm.one(manifests, "Deployment")["spec"]
    target = helm.one(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == "uniqueid"


def test_an_autoscaler_adds_and_removes_one_pod_at_a_time(network: cases.Values) -> None:
    """And it aims at a part of a CPU that a pod needs under load, not when it is idle."""
    manifests = helm.render(helm.merge(network, {"autoscaling": {"enabled": True}}))
    behavior = helm.one(manifests, "HorizontalPodAutoscaler")["spec"]["behavior"]
    assert set(behavior) == {"scaleUp", "scaleDown"}
    for rules in behavior.values():
        assert [policy["value"] for policy in rules["policies"]] == [1]
    (container,) = helm.service_pod(manifests)["containers"]
    assert container["resources"]["requests"]["cpu"] == "500m"


# -- maintenance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if "maintenance" in name])
def test_maintenance_has_what_the_service_has(name: str) -> None:
    """No pod of the service and no hook; one pod with its image, settings and volumes, which the
    Service does not select."""
    values = CASES[name]
    manifests = helm.render(values)
    assert "Job" not in {manifest["kind"] for manifest in manifests}
    several = values.get("replicas", 1) > 1
    workload = helm.one(manifests, "StatefulSet" if several else "Deployment")["spec"]
    assert workload["replicas"] == 0
    template = helm.one(manifests, "Deployment", "uniqueid-maintenance")["spec"]["template"]
    service = helm.one(manifests, "Service")["spec"]
    assert not selected(service["selector"], template["metadata"]["labels"])
    pod, original = template["spec"], workload["template"]["spec"]
    (container,), expected = pod["containers"], original["containers"][0]
    for key in ("image", "securityContext"):
        assert container[key] == expected[key]
    for mine, key in ((container, "env"), (container, "volumeMounts"), (pod, "volumes")):
        theirs = expected[key] if mine is container else original[key]
        # Of several fences each is one pod's own.
        own = [item for item in theirs if not several or "fence" not in str(item).lower()]
        assert mine[key] == own
    assert pod["securityContext"] == original["securityContext"]
    if values.get("networkPolicy", {}).get("enabled"):
        policy = helm.one(manifests, "NetworkPolicy", "uniqueid-maintenance")["spec"]
        assert policy["egress"] == helm.one(manifests, "NetworkPolicy")["spec"]["egress"]
        assert selected(policy["podSelector"]["matchLabels"], template["metadata"]["labels"])


# -- dbsync --------------------------------------------------------------------------------------


def test_dbsync_runs_before_the_service(network: cases.Values) -> None:
    """An init container makes the tables with the service's own settings; the service does not."""
    for values in ({}, network):
        pod = helm.service_pod(helm.render(values))
        (dbsync,) = pod["initContainers"]
        (service,) = pod["containers"]
        assert dbsync["args"][:2] == ["pacifica-uniqueid-cmd", "dbsync"]
        for key in ("image", "env", "volumeMounts", "securityContext"):
            assert dbsync[key] == service[key]
        assert "args" not in service


def test_the_hook_has_its_configuration_before_it_runs() -> None:
    """A hook's Job reads a Secret and a ConfigMap that are hooks as well, and earlier ones."""
    values = helm.merge(cases.POSTGRESQL, cases.NETWORK_ONLY["hook"])
    manifests = helm.render(values)
    job = helm.one(manifests, "Job", "uniqueid-dbsync")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    weight = int(job["metadata"]["annotations"]["helm.sh/hook-weight"])
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (password,) = [v for v in pod["volumes"] if v["name"] == "database-secret"]
    assert "/etc/uniqueid-database" in {m["mountPath"] for m in container["volumeMounts"]}
    (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
    needed = [
        ("Secret", password["secret"]["secretName"]),
        ("ConfigMap", volume["configMap"]["name"]),
        ("NetworkPolicy", "uniqueid-dbsync"),
    ]
    for kind, name in needed:
        annotations = helm.one(manifests, kind, name)["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade,post-delete"
        assert int(annotations["helm.sh/hook-weight"]) < weight
    # The release's service account does not exist yet.
    assert "serviceAccountName" not in pod
    assert "initContainers" not in helm.service_pod(manifests)
    assert helm.one(manifests, "Secret")["stringData"] == {"password": "p@ss%20w/rd: {x}"}


# -- never cached, never repeated ----------------------------------------------------------------

HEADERS = dict(caching.NEVER_CACHED)


def test_a_route_sets_the_service_s_headers_again() -> None:
    """The HTTPRoute sets every header of the service and removes what lets a cache ask again."""
    values = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    route = helm.one(helm.render(values), "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    modifier = rule["filters"][0]["responseHeaderModifier"]
    assert {header["name"]: header["value"] for header in modifier["set"]} == HEADERS
    assert modifier["remove"] == ["ETag", "Last-Modified"]
    assert "retry" not in rule, "0 attempts are no value of the Gateway API, and 1 repeats"
    (backend,) = rule["backendRefs"]
    assert (backend["name"], backend["port"]) == ("uniqueid", 8051)
    for controller in ("none", "nginx"):
        named = helm.merge(values, {"ingress": {"controller": controller}})
        annotations = helm.one(helm.render(named), "Service")["metadata"]["annotations"]
        assert annotations["konghq.com/retries"] == "0", "Kong's gateway repeats five times"


def _ingress(controller: str, **more: Any) -> list[helm.Manifest]:
    return helm.render({"ingress": {"enabled": True, "controller": controller, **more}})


@pytest.mark.parametrize(
    ("controller", "annotations"),
    [
        (
            "nginx",
            {
                "nginx.ingress.kubernetes.io/proxy-buffering": "off",
                "nginx.ingress.kubernetes.io/proxy-next-upstream": "off",
                "nginx.ingress.kubernetes.io/proxy-next-upstream-tries": "1",
            },
        ),
        (
            "f5-nginx",
            {
                "nginx.org/proxy-buffering": "False",
                "nginx.org/proxy-next-upstream": "off",
                "nginx.org/proxy-next-upstream-tries": "1",
                "nginx.org/proxy-pass-headers": "X-Accel-Expires,X-Accel-Buffering",
            },
        ),
    ],
)
def test_nginx_neither_keeps_nor_repeats(controller: str, annotations: dict[str, str]) -> None:
    """The presets of both nginx controllers: no buffering to disk, no next upstream."""
    ingress = helm.one(_ingress(controller), "Ingress")
    assert ingress["metadata"]["annotations"] == annotations


def test_ingress_nginx_sets_the_headers_where_it_may() -> None:
    """In a ConfigMap that the annotation names; only when asked, for else it would answer 503."""
    manifests = _ingress("nginx", nginxCustomHeaders=True)
    annotations = helm.one(manifests, "Ingress")["metadata"]["annotations"]
    named = annotations["nginx.ingress.kubernetes.io/custom-headers"]
    assert named == "science/uniqueid-headers"
    assert helm.one(manifests, "ConfigMap", "uniqueid-headers")["data"] == HEADERS
    for other in (_ingress("nginx"), _ingress("traefik", nginxCustomHeaders=True)):
        assert "ConfigMap" not in {manifest["kind"] for manifest in other}
        assert "custom-headers" not in json.dumps(other)


def test_an_unnamed_controller_has_the_settings_of_all(major: int) -> None:
    """Without a controller's name the Ingress and the Service have what any of them understands."""
    manifests = _ingress("none")
    together: dict[str, str] = {}
    service: dict[str, str] = {}
    for controller in ("nginx", "f5-nginx", "haproxy"):
        named = _ingress(controller)
        together |= helm.one(named, "Ingress")["metadata"]["annotations"]
        service |= helm.one(named, "Service")["metadata"].get("annotations", {})
    assert helm.one(manifests, "Ingress")["metadata"]["annotations"] == together
    service["konghq.com/retries"] = "0"
    assert helm.one(manifests, "Service")["metadata"]["annotations"] == service
    assert not [manifest for manifest in manifests if manifest["kind"] in helm.CUSTOM]
    options = ["--set", "ingress.enabled=true", "-n", "science"]
    options += ["--api-versions", "traefik.io/v1alpha1/Middleware"]
    answer = helm.run(major, "template", "uniqueid", str(helm.CHART), *options)
    assert answer.returncode == 0, answer.stderr
    manifests = helm.parse(answer.stdout)
    named = _ingress("traefik")
    for kind in ("Ingress", "Service"):
        expected = helm.one(named, kind)["metadata"]["annotations"]
        assert expected.items() <= helm.one(manifests, kind)["metadata"]["annotations"].items()
    for kind, name in (("Middleware", "uniqueid-no-store"), ("ServersTransport", "uniqueid")):
        assert helm.one(manifests, kind, name) == helm.one(named, kind, name)


@pytest.mark.parametrize("name", CASES)
def test_nothing_leads_to_the_service_without_the_settings(name: str) -> None:
    """Whatever the values: an Ingress, a route and a Service forbid to keep and to repeat."""
    values = CASES[name]
    controller = values.get("ingress", {}).get("controller", "none")
    manifests = helm.render(values)
    for manifest in manifests:
        text = json.dumps(manifest)
        annotations = manifest["metadata"].get("annotations", {})
        if manifest["kind"] == "HTTPRoute":
            (rule,) = manifest["spec"]["rules"]
            assert rule["filters"][0]["type"] == "ResponseHeaderModifier"
            assert "retry" not in rule
        elif manifest["kind"] == "Ingress":
            kept = ("proxy-buffering", "middlewares", "response-set-header")
            repeated = ("proxy-next-upstream", "middlewares", "backend-config-snippet")
            for words in (kept, repeated):
                assert any(word in key for key in annotations for word in words)
        elif manifest["kind"] == "Service" and controller in ("none", "traefik", "haproxy"):
            assert any(word in text for word in ("retry-on conn-failure", "serverstransport"))


@pytest.mark.parametrize(("buffering", "repeated"), [("on", 19), ("off", 0)])
def test_nginx_keeps_nothing_that_it_does_not_buffer(
    service: servers.Service, buffering: str, repeated: int
) -> None:
    """Why the presets turn buffering off: nginx keeps nothing then, told to ignore all headers."""
    keep = "proxy_cache_path {directory}/cache keys_zone=c:1m;"
    directives = f"""
        proxy_cache c; proxy_cache_valid any 10m; proxy_buffering {buffering};
        proxy_ignore_headers Cache-Control Expires Set-Cookie Vary X-Accel-Expires
            X-Accel-Buffering;
    """
    with servers.running(controllers.Nginx(service.port, directives, keep)) as proxy:
        assert isinstance(proxy, controllers.Nginx)
        starts = [proxy.allocate(f"buffering-{buffering}") for _ in range(20)]
    assert len(starts) - len(set(starts)) == repeated


def test_f5_s_nginx_passes_every_header_on(service: servers.Service) -> None:
    """With the directives that the controller makes of the preset, none of the headers is lost."""
    annotations = helm.one(_ingress("f5-nginx"), "Ingress")["metadata"]["annotations"]
    passed = annotations["nginx.org/proxy-pass-headers"].split(",")
    directives = "proxy_buffering off; proxy_next_upstream off; proxy_next_upstream_tries 1; "
    directives += " ".join(f"proxy_pass_header {name};" for name in passed)
    with servers.running(controllers.Nginx(service.port, directives)) as proxy:
        assert isinstance(proxy, controllers.Nginx)
        response = proxy.get("/getid?range=1&mode=passed")
    assert {name: response.getheader(name) for name in HEADERS} == HEADERS


def test_haproxy_reads_the_preset(service: servers.Service) -> None:
    """HAProxy takes the lines as they are, and restores headers that were changed on the way."""
    annotations = helm.one(_ingress("haproxy"), "Ingress")["metadata"]["annotations"]
    lines = ["http-response del-header Cache-Control", "http-response set-header Vary Accept"]
    lines += [
        f"http-response set-header {line}"
        for line in annotations["haproxy.org/response-set-header"].splitlines()
    ]
    lines += annotations["haproxy.org/backend-config-snippet"].splitlines()
    with servers.running(controllers.HAProxy(service.port, lines)) as proxy:
        assert isinstance(proxy, controllers.HAProxy)
        response = proxy.get("/getid?range=1&mode=restored")
    assert {name: response.getheader(name) for name in HEADERS} == HEADERS


def test_traefik_neither_keeps_nor_repeats() -> None:
    """Traefik sets the headers again and has no idle connections, over which it repeats GETs."""
    manifests = _ingress("traefik")
    annotations = helm.one(manifests, "Ingress")["metadata"]["annotations"]
    middlewares = "traefik.ingress.kubernetes.io/router.middlewares"
    assert annotations == {middlewares: "science-uniqueid-no-store@kubernetescrd"}
    middleware = helm.one(manifests, "Middleware", "uniqueid-no-store")
    headers = middleware["spec"]["headers"]["customResponseHeaders"]
    assert headers == {**HEADERS, "ETag": "", "Last-Modified": ""}
    service = helm.one(manifests, "Service")["metadata"]["annotations"]
    assert service == {
        "traefik.ingress.kubernetes.io/service.serverstransport": "science-uniqueid@kubernetescrd"
    }
    transport = helm.one(manifests, "ServersTransport")
    assert transport["spec"] == {"maxIdleConnsPerHost": -1}


def test_traefik_s_other_middlewares_stay() -> None:
    """A middleware of the operator comes after the chart's."""
    name = "traefik.ingress.kubernetes.io/router.middlewares"
    manifests = _ingress("traefik", annotations={name: "science-auth@kubernetescrd"})
    annotations = helm.one(manifests, "Ingress")["metadata"]["annotations"]
    assert annotations[name] == (
        "science-uniqueid-no-store@kubernetescrd,science-auth@kubernetescrd"
    )


def test_haproxy_neither_keeps_nor_repeats() -> None:
    """HAProxy sets the headers again and repeats only what it could not send."""
    manifests = _ingress("haproxy")
    annotations = helm.one(manifests, "Ingress")["metadata"]["annotations"]
    lines = annotations["haproxy.org/response-set-header"].splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    assert {name: json.loads(value) for name, value in pairs} == HEADERS
    for holder in (annotations, helm.one(manifests, "Service")["metadata"]["annotations"]):
        assert holder["haproxy.org/backend-config-snippet"].strip() == "retry-on conn-failure"


@pytest.mark.parametrize("controller", ["none", "nginx", "f5-nginx", "traefik", "haproxy"])
def test_the_preset_cannot_be_overridden(controller: str) -> None:
    """Every annotation of a preset is refused with another value, and accepted with its own."""
    annotations = helm.one(_ingress(controller), "Ingress")["metadata"]["annotations"]
    for name, value in annotations.items():
        if not name.endswith("router.middlewares"):
            ingress: dict[str, Any] = {"enabled": True, "controller": controller}
            said = helm.refusal({"ingress": {**ingress, "annotations": {name: "retry"}}})
            assert name in said
            _ingress(controller, annotations={name: value})


def test_there_is_no_ingress_by_default() -> None:
    """The service has no authentication: nothing lets it out unless it is asked to."""
    kinds = {manifest["kind"] for manifest in helm.render()}
    assert not kinds & {"Ingress", "HTTPRoute"}
    assert helm.one(helm.render(), "Service")["spec"]["type"] == "ClusterIP"


# -- configuration -------------------------------------------------------------------------------


def test_the_chart_s_uwsgi_ini_is_the_service_s() -> None:
    """The copy that a chart needs has not grown old."""
    here = (helm.CHART / "files/uwsgi.ini").read_text()
    assert here == (CHECKOUT / "uwsgi.ini").read_text()


def test_files_are_replaced_only_where_values_change_them(network: cases.Values) -> None:
    """Without values for them the image's own files are used."""
    for values in ({}, network):
        assert not [m for m in helm.render(values) if m["kind"] == "ConfigMap"]
    files = helm.one(helm.render({"settings": {"max_range": 5}}), "ConfigMap")["data"]
    assert set(files) == {"config.cfg"}
    files = helm.one(helm.render({"uwsgi": {"threads": 5}}), "ConfigMap")["data"]
    assert set(files) == {"uwsgi.ini"}


def test_settings_arrive_as_they_were_written(major: int, tmp_path: Path) -> None:
    """The service reads from the rendered file what the values say, large numbers too."""
    settings = cases.FEATURES["settings"]["settings"]
    files = helm.one(helm.render({"settings": settings}, major), "ConfigMap")["data"]
    file = tmp_path / "config.cfg"
    file.write_text(files["config.cfg"])
    loaded = config.load(str(file), environ={}).settings
    for name, value in settings.items():
        read = getattr(loaded, name)
        switch = {"on": True, "off": False}
        expected = switch.get(value, value) if isinstance(value, str) else value
        assert (list(read) if isinstance(value, list) else read) == expected


def test_uwsgi_s_options_arrive() -> None:
    """Only the lines that values name differ from the shipped file."""
    manifests = helm.render(cases.FEATURES["uwsgi"])
    lines = helm.one(manifests, "ConfigMap")["data"]["uwsgi.ini"].splitlines()
    shipped = (CHECKOUT / "uwsgi.ini").read_text().splitlines()
    added = [line for line in lines if line not in shipped]
    assert added == ["threads = 16", "listen = 64", "harakiri = 70", "log-4xx = true"]
    assert [line for line in shipped if line not in lines] == ["threads = 48"]


@pytest.mark.parametrize("name", ["dual stack", "IPv6"])
def test_ipv6_is_listened_to_where_the_service_has_it(name: str) -> None:
    """A Service with IPv6 addresses leads to pods that answer there."""
    manifests = helm.render(cases.FEATURES[name])
    lines = helm.one(manifests, "ConfigMap")["data"]["uwsgi.ini"].splitlines()
    assert "http-socket = [::]:8051" in lines
    assert "http-socket = :8051" not in lines


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"settings": {"max_range": 5}}, {"settings": {"max_range": 6}}),
        ({"uwsgi": {"threads": 5}}, {"uwsgi": {"threads": 6}}),
        (cases.POSTGRESQL, helm.merge(cases.POSTGRESQL, {"database": {"password": "new"}})),
    ],
)
def test_a_changed_configuration_restarts_the_pods(
    values: cases.Values, changed: cases.Values
) -> None:
    """A checksum of what a pod reads is in its annotations; the same values give the same."""

    def annotations(values: cases.Values) -> dict[str, str]:
        template = helm.one(helm.render(values), "Deployment")["spec"]["template"]
        found: dict[str, str] = template["metadata"]["annotations"]
        return found

    assert annotations(values) == annotations(values)
    assert annotations(values) != annotations(changed)


# -- pods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_pod_fits_a_restricted_namespace(name: str) -> None:
    """The `restricted` Pod Security Standard, and a little more, for every pod and container."""
    own = {"dbsync", "uniqueid", "ready"}
    for pod in helm.pods(helm.render(CASES[name])):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed
        for container in helm.containers(spec):
            if container["name"] not in own:
                continue
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            resources = container["resources"]
            assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_probes_ask_by_http_and_take_no_id() -> None:
    """Readiness includes the database, liveness and startup do not, and none of them allocates."""
    (container,) = helm.service_pod(helm.render())["containers"]
    paths = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    startup = container["startupProbe"]
    rows = {row.name: float(row.default) for row in config.rows() if "connect" in row.name}
    patience = startup["failureThreshold"] * startup["periodSeconds"]
    assert patience > rows["connect_attempts"] * rows["connect_wait"]


@pytest.mark.parametrize("name", CASES)
def test_the_service_selects_its_own_pods_only(name: str) -> None:
    """Neither the test's pod nor dbsync's nor maintenance's is sent a request."""
    manifests = helm.render(CASES[name])
    (service,) = [m for m in manifests if m["kind"] == "Service"]
    selector = service["spec"]["selector"]
    for manifest in manifests:
        own = manifest["metadata"]["name"]
        if manifest["kind"] == "Job" or own.endswith("-maintenance"):
            template = manifest["spec"].get("template", {"metadata": {"labels": {}}})
            assert not selected(selector, template["metadata"]["labels"])
        elif manifest["kind"] in ("Deployment", "StatefulSet"):
            assert selected(selector, manifest["spec"]["template"]["metadata"]["labels"])
            assert manifest["spec"]["selector"]["matchLabels"] == selector
        elif manifest["kind"] == "Pod":
            assert not selected(selector, manifest["metadata"]["labels"])


def test_helm_test_takes_no_id(major: int) -> None:
    """`helm test` asks /readyz from the service's own image."""
    manifests = helm.render({}, major)
    pod = helm.one(manifests, "Pod", "uniqueid-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["--ready", "http://uniqueid:8051/readyz"]
    assert container["image"] == helm.service_pod(manifests)["containers"][0]["image"]


def test_a_budget_never_blocks_a_node() -> None:
    """The disruption budget lets one pod go, even if it is the only one."""
    budget = helm.one(helm.render(cases.FEATURES["disruption budget"]), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]


def test_the_network_policy_admits_who_is_named_only(network: cases.Values) -> None:
    """Ingest, the test's pod and Prometheus come in; DNS and the database's port are let out."""
    on = {"networkPolicy": {"enabled": True}}
    policy = helm.one(helm.render(on), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == [], "SQLite needs no other host"
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    names = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule["from"]]
    assert names == ["ingest", "uniqueid-test", "prometheus"]
    pod = helm.one(helm.render(on), "Pod", "uniqueid-test")
    tested = rule["from"][1]["podSelector"]["matchLabels"]
    assert selected(tested, pod["metadata"]["labels"])
    policy = helm.one(helm.render(helm.merge(network, on)), "NetworkPolicy")["spec"]
    dns, database = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    ports = {port["port"] for port in database["ports"]}
    expected = {"mysql": {3306}, "postgresql": {5432}}
    kind = network["database"].get("type", "")
    assert ports == expected.get(kind, {3306, 5432})


# -- metrics -------------------------------------------------------------------------------------


def test_the_monitor_finds_the_service() -> None:
    """The ServiceMonitor selects the Service and names one of its ports."""
    manifests = helm.render(cases.FEATURES["metrics"])
    monitor = helm.one(manifests, "ServiceMonitor")["spec"]
    service = helm.one(manifests, "Service")
    assert selected(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    assert monitor["namespaceSelector"] == {"matchNames": ["science"]}
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"


def test_the_dashboard_is_the_shipped_one() -> None:
    """In a ConfigMap with the label that Grafana's sidecar looks for."""
    manifests = helm.render(cases.FEATURES["metrics"])
    (found,) = [
        manifest
        for manifest in manifests
        if manifest["kind"] == "ConfigMap" and "uniqueid.json" in manifest["data"]
    ]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["namespace"] == "monitoring"
    shipped = (helm.CHART / "dashboards" / "uniqueid.json").read_text()
    assert json.loads(found["data"]["uniqueid.json"]) == json.loads(shipped)


def test_tokens_come_from_a_secret_and_follow_it() -> None:
    """Mounted as a whole, for a file of its own would not change with the Secret."""
    manifests = helm.render(cases.FEATURES["tokens"])
    pod = helm.one(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["UNIQUEID_AUTH_TOKENS_FILE"] == "/etc/uniqueid-tokens/allocate"
    assert environment["UNIQUEID_STATUS_TOKENS_FILE"] == "/etc/uniqueid-tokens/status"
    assert {row.variable for row in config.rows()} >= {
        "UNIQUEID_AUTH_TOKENS_FILE",
        "UNIQUEID_STATUS_TOKENS_FILE",
    }
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "tokens"]
    assert "subPath" not in mount
    (volume,) = [item for item in pod["volumes"] if item["name"] == "tokens"]
    assert volume["secret"]["secretName"] == "ids"
    monitor = helm.one(manifests, "ServiceMonitor")["spec"]["endpoints"][0]
    assert monitor["authorization"]["credentials"]["name"] == "ids-plain"


def test_the_alerts_are_the_shipped_ones_with_the_site_s_labels(tmp_path: Path) -> None:
    """alerts.yaml, whose rules have tests of their own, in the form of Prometheus' operator."""
    spec = helm.one(helm.render(cases.FEATURES["metrics"]), "PrometheusRule")["spec"]
    (shipped,) = yaml.safe_load((helm.CHART / "alerts.yaml").read_text())["groups"]
    expected = [
        {**rule, "labels": {**rule["labels"], "team": "science"}} for rule in shipped["rules"]
    ]
    docs = "https://github.com/pacifica/pacifica-uniqueid/blob/master/docs"
    (group,) = spec["groups"]
    assert group["rules"] == [*expected, {"record": "uniqueid:up", "expr": "up"}]
    assert all(docs in rule["annotations"]["runbook_url"] for rule in shipped["rules"])
    own = {"metrics": {"prometheusRule": {"runbookBaseURL": "https://wiki.example.com/ids/"}}}
    rules = helm.one(helm.render(helm.merge(cases.FEATURES["metrics"], own)), "PrometheusRule")
    for mine, rule in zip(rules["spec"]["groups"][0]["rules"], shipped["rules"], strict=False):
        url = mine["annotations"]["runbook_url"]
        assert url == rule["annotations"]["runbook_url"].replace(
            docs, "https://wiki.example.com/ids"
        )
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(spec))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)
