"""Releases of the chart by real Helm and kubectl, in a cluster that is only an API server.

`cluster.Cluster` says how far that goes: what is sent is validated strictly, and a pod runs only if
all that it names exists.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import cluster
import helm
import yaml
from helm_user import User
from servers import CHECKOUT


def left(where: cluster.Cluster) -> set[tuple[str, str]]:
    """What there is in the namespace but what is always there."""
    found = {(what["kind"], what["metadata"]["name"]) for what in where.objects.values()}
    return {one for one in found if one[0] not in ("Namespace", "ReplicaSet", "Pod")} - {
        ("ServiceAccount", "default")
    }


def test_a_release_comes_changes_and_goes_but_for_its_counters(user: User) -> None:
    """Install, test, upgrade, roll back, uninstall, install again: always on the same claim."""
    wait = ("--wait", "--timeout", "100s")
    notes = user.helm("install", "uniqueid", str(helm.CHART), *wait)
    assert "helm -n science test uniqueid" in notes
    assert {one for one in left(user.cluster) if one[0] != "Secret"} == {
        ("Deployment", "uniqueid"),
        ("PersistentVolumeClaim", "uniqueid-data"),
        ("Service", "uniqueid"),
        ("ServiceAccount", "uniqueid"),
    }
    claim = user.cluster.get("PersistentVolumeClaim", "uniqueid-data")
    assert claim is not None
    user.helm("test", "uniqueid")
    assert user.cluster.get("Pod", "uniqueid-test") is None
    first = user.template()
    user.install("upgrade", {"settings": {"max_range": 5}})
    assert user.template() != first
    assert user.cluster.get("ConfigMap", "uniqueid") is not None
    user.helm("rollback", "uniqueid", "--wait")
    assert user.template() == first
    assert user.cluster.get("ConfigMap", "uniqueid") is None
    user.helm("uninstall", "uniqueid", "--wait")
    assert left(user.cluster) == {("PersistentVolumeClaim", "uniqueid-data")}
    user.install()
    again = user.cluster.get("PersistentVolumeClaim", "uniqueid-data")
    assert again is not None
    assert again["metadata"]["uid"] == claim["metadata"]["uid"]


def test_without_keep_the_claim_goes_with_the_release(user: User) -> None:
    """`persistence.keep=false` is what makes the difference."""
    user.install(values={"persistence": {"keep": False}})
    user.helm("uninstall", "uniqueid", "--wait")
    assert left(user.cluster) == set()


def test_an_upgrade_to_another_version_of_the_chart_is_accepted(user: User, tmp_path: Path) -> None:
    """Nothing that a cluster cannot change differs between versions, and the claim is the same."""
    copy = tmp_path / "uniqueid"
    subprocess.run(["cp", "-r", helm.CHART, copy], check=True)
    chart = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(
        chart.replace("version: 1.0.0", "version: 0.9.0").replace('"1.0.0"', '"0.9.0"')
    )
    user.install(chart=copy)
    before = {kind: user.cluster.of(kind)[0] for kind in ("Deployment", "PersistentVolumeClaim")}
    assert before["Deployment"]["metadata"]["labels"]["app.kubernetes.io/version"] == "0.9.0"
    user.install("upgrade")
    for kind, old in before.items():
        (new,) = user.cluster.of(kind)
        assert new["metadata"]["uid"] == old["metadata"]["uid"]
        assert new["metadata"]["labels"] != old["metadata"]["labels"]


def test_one_fence_becomes_several_and_their_claims_stay(user: User, tmp_path: Path) -> None:
    """More replicas change the kind; a later chart, other labels, other numbers of pods, a deleted
    pod, an uninstall and the way back to one lose no claim and make no second one."""
    user.secret("counters", password="x")
    fence = helm.merge(cases.MYSQL, cases.FENCE)
    user.install(values=fence)
    assert user.cluster.get("StatefulSet", "uniqueid") is None
    copy = tmp_path / "uniqueid"
    subprocess.run(["cp", "-r", helm.CHART, copy], check=True)
    chart = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(chart.replace("version: 1.0.0", "version: 0.9.0"))
    user.install("upgrade", helm.merge(fence, {"replicas": 2}), copy)
    assert user.cluster.get("Deployment", "uniqueid") is None
    first = user.cluster.get("StatefulSet", "uniqueid")
    user.cluster.history.clear()
    labels = {"commonLabels": {"team": "science"}, "commonAnnotations": {"contact": "ops"}}
    user.install("upgrade", helm.merge(fence, {"replicas": 3}, labels))
    assert user.cluster.history.count("update StatefulSet uniqueid") == 1
    now = user.cluster.get("StatefulSet", "uniqueid")
    assert first is not None
    assert now is not None
    assert now["metadata"]["labels"] != first["metadata"]["labels"]

    def claims() -> dict[str, str]:
        found = user.cluster.of("PersistentVolumeClaim")
        return {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in found}

    names = [f"uniqueid-{number}" for number in range(3)]
    kept = claims()
    assert set(kept) == {"uniqueid-fence", *(f"fence-{name}" for name in names)}
    user.run("kubectl", "delete", "pod", "uniqueid-1")
    assert sorted(pod["metadata"]["name"] for pod in user.cluster.of("Pod")) == names
    for pod in user.cluster.of("Pod"):
        (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "fence"]
        claim = volume["persistentVolumeClaim"]
        assert claim == {"claimName": f"fence-{pod['metadata']['name']}"}
    for command in (("rollout", "status"), ("scale", "--replicas=0")):
        answer = user.run("kubectl", command[0], *command[1:], "statefulset/uniqueid")
        assert answer.returncode == 0, answer.stderr
    assert user.cluster.of("Pod") == []
    user.helm("uninstall", "uniqueid", "--wait")
    assert claims() == kept
    for replicas in (3, 1):
        verb = "install" if replicas == 3 else "upgrade"
        user.install(verb, helm.merge(fence, {"replicas": replicas}))
        assert claims() == kept


def test_everything_at_once_is_accepted(user: User) -> None:
    """With every feature on, the API server accepts all of it, custom resources included."""
    for name in ("counters", "ids", "ca", "more"):
        user.secret(name, password="x", allocate="y", status="z")
    user.cluster.create_namespace("monitoring")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other"}}
    user.cluster.put(account)
    user.install(values=cases.everything(cases.MYSQL if user.major == 3 else cases.POSTGRESQL))
    kinds = {kind for kind, _name in left(user.cluster)}
    assert kinds >= {"HTTPRoute", "ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler"}


def test_the_hook_runs_before_the_release_with_what_it_needs(user: User) -> None:
    """The Job has its Secret and ConfigMap, runs before the Deployment, and leaves nothing."""
    values = helm.merge(cases.POSTGRESQL, cases.NETWORK_ONLY["hook"])
    for verb, made in (("install", "create"), ("upgrade", "update")):
        user.cluster.history.clear()
        user.install(verb, values)
        history = user.cluster.history
        job = history.index("create Job uniqueid-dbsync")
        for earlier in ("Secret", "ConfigMap", "NetworkPolicy"):
            assert history.index(f"create {earlier} uniqueid-dbsync") < job
        values = helm.merge(values, {"podLabels": {"changed": "yes"}})
        assert job < history.index(f"{made} Deployment uniqueid")
        assert not [name for _kind, name in left(user.cluster) if name.endswith("-dbsync")]


def test_an_upgrade_that_reuses_the_values_of_an_older_chart(user: User, tmp_path: Path) -> None:
    """Its values lack what the chart has gained; `--reset-then-reuse-values` has it."""
    copy = tmp_path / "uniqueid"
    subprocess.run(["cp", "-r", helm.CHART, copy], check=True)
    values = yaml.safe_load((copy / "values.yaml").read_text())
    for name in ("maintenance", "metrics", "fence", "httpRoute", "tokens", "networkPolicy"):
        del values[name]
    del values["dbsync"]["ttlSecondsAfterFinished"]
    (copy / "values.yaml").write_text(yaml.safe_dump(values))
    user.secret("counters", password="x")
    user.install(values=cases.MYSQL, chart=copy)
    for option in ("--reuse-values", "--reset-then-reuse-values"):
        user.helm("upgrade", "uniqueid", str(helm.CHART), option, "--set", "replicas=2")
        deployment = user.cluster.get("Deployment", "uniqueid")
        assert deployment is not None
        assert deployment["spec"]["replicas"] == 2
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert "db.science" in str(container["env"])


def test_an_autoscaler_starts_from_the_pods_that_there_are(user: User) -> None:
    """Turning it on, and each upgrade after that, leaves their number; from none it starts at
    `minReplicas`."""
    user.secret("counters", password="x")

    def replicas() -> int:
        deployment = user.cluster.get("Deployment", "uniqueid")
        assert deployment is not None
        return int(deployment["spec"]["replicas"])

    user.install(values=helm.merge(cases.MYSQL, {"replicas": 3}))
    automatic = helm.merge(cases.MYSQL, cases.NETWORK_ONLY["autoscaling"])
    user.install("upgrade", automatic)
    assert replicas() == 3
    for live, expected in ((4, 4), (0, 2)):
        answer = user.run("kubectl", "scale", "deployment/uniqueid", f"--replicas={live}")
        assert answer.returncode == 0, answer.stderr
        user.install("upgrade", automatic)
        assert replicas() == expected
    user.install("upgrade", helm.merge(automatic, cases.MAINTENANCE))
    assert replicas() == 0
    user.install("upgrade", automatic)
    assert replicas() == 2


def test_maintenance_ends_the_pods_and_starts_them_again(user: User) -> None:
    """With the claim of the release, and on to another database while no pod serves."""
    user.secret("counters", password="x")
    user.install()
    for values, replicas in (
        (cases.MAINTENANCE, 0),
        (helm.merge(cases.MAINTENANCE, cases.MYSQL), 0),
        (cases.MYSQL, 1),
    ):
        user.install("upgrade", values)
        deployment = user.cluster.get("Deployment", "uniqueid")
        assert deployment is not None
        assert deployment["spec"]["replicas"] == replicas
        stopped = user.cluster.get("Deployment", "uniqueid-maintenance")
        assert (stopped is None) == (replicas == 1)
        assert user.cluster.get("PersistentVolumeClaim", "uniqueid-data") is not None


def test_a_hook_that_fails_leaves_its_job_for_an_hour(user: User) -> None:
    """For its log; Kubernetes deletes it. The Secret goes with the uninstall at the latest."""
    values = helm.merge(cases.POSTGRESQL, cases.NETWORK_ONLY["hook"])
    user.cluster.failing.add("uniqueid-dbsync")
    file = user.home / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    answer = user.run("helm", "install", "uniqueid", str(helm.CHART), "-f", str(file))
    assert answer.returncode != 0
    user.helm("uninstall", "uniqueid", "--wait")
    assert left(user.cluster) == {("Job", "uniqueid-dbsync")}
    job = user.cluster.get("Job", "uniqueid-dbsync")
    assert job is not None
    assert job["spec"]["ttlSecondsAfterFinished"] == 3600


def test_a_changed_secret_restarts_the_pods_with_the_next_upgrade(user: User) -> None:
    """The pods read the password when they start; a Secret that did not change restarts nothing."""
    user.secret("counters", url="mysql://a:old@db/x")
    user.install(values=cases.URL)
    # The first upgrade takes the permission to create tables away, which restarts the pods.
    user.install("upgrade", cases.URL)
    first = user.template()
    user.install("upgrade", cases.URL)
    assert user.template() == first
    user.secret("counters", url="mysql://a:new@db/x")
    user.install("upgrade", cases.URL)
    changed = user.template()
    assert changed != first
    assert "new" not in json.dumps(changed["metadata"])


# -- the documentation ---------------------------------------------------------------------------

PAGES = sorted(
    [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md"), helm.CHART / "README.md"]
)


def commands() -> Iterator[list[str]]:
    """Every command line of the pages that is for Helm or kubectl, in blocks and in sentences."""
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"```(?:console|sh)\n(.*?)```", text, re.DOTALL):
            lexer = shlex.shlex(block.replace("\\\n", " "), posix=True, punctuation_chars="|<>&;\n")
            lexer.whitespace = " \t"
            lexer.whitespace_split = True
            lexer.commenters = "#"
            words: list[str] = []
            for word in [*lexer, "\n"]:
                if set(word) <= set("|<>&;\n"):
                    if words[:1] in (["until"], ["do"]):
                        words = words[1:]
                    if words[:1] in (["helm"], ["kubectl"]):
                        yield words
                    words = []
                else:
                    words.append(word)
        for line in re.findall(
            r"`((?:helm|kubectl) [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S)
        ):
            yield shlex.split(line)


# What a stream to a pod is for, and this cluster has no pods that run.
STREAMS = ("exec", "port-forward")


def test_every_documented_command_of_helm_and_kubectl_works(tmp_path: Path) -> None:
    """Each runs as it stands, after an installation; what needs a running pod is understood."""
    with cluster.Cluster() as empty:
        _type_all(User(empty, tmp_path, 4))


def _type_all(user: User) -> None:
    found = [command for command in commands() if not any(word.isupper() for word in command)]
    assert sum(command[0] == "helm" for command in found) > 5
    assert sum(command[0] == "kubectl" for command in found) > 4
    user.secret("uniqueid-database", password="x")
    user.secret("tokens", allocate="x")
    user.helm("install", "uniqueid", str(helm.CHART))
    user.helm("upgrade", "uniqueid", str(helm.CHART))
    for program, *arguments in found:
        if not arguments[1:]:
            # Only named in a sentence.
            assert user.run(program, *arguments, "--help").returncode == 0
            continue
        if arguments[0] == "install":
            user.helm("uninstall", "uniqueid")
        # The page says when the service is stopped; kubectl waits a minute for a pod that is not.
        stopped = "deploy/uniqueid-maintenance" in arguments
        is_stopped = user.cluster.get("Deployment", "uniqueid-maintenance") is not None
        if (stopped or "deploy/uniqueid" in arguments) and stopped != is_stopped:
            value = f"maintenance.enabled={str(stopped).lower()}"
            options = ("--reset-then-reuse-values", "--set", value)
            user.helm("upgrade", "uniqueid", str(helm.CHART), *options)
        if arguments[:2] == ["create", "secret"]:
            user.cluster.objects.pop(("", "secrets", "science", arguments[3]), None)
        answer = user.run(program, *arguments)
        if arguments[0] in STREAMS:
            # It got as far as to ask for the stream, which no flag that it does not know does.
            assert "unknown" not in answer.stderr, (arguments, answer.stderr)
            assert "Usage:" not in answer.stderr, (arguments, answer.stderr)
        else:
            assert answer.returncode == 0, (arguments, answer.stderr)
        assert user.cluster.stuck == []
        if arguments[0] == "uninstall":
            user.helm("install", "uniqueid", str(helm.CHART))


def test_every_documented_file_of_values_renders() -> None:
    """A block of YAML on the chart's page is a file of values."""
    text = (CHECKOUT / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 1
    for block in blocks:
        values = yaml.safe_load(block)
        kinds = {manifest["kind"] for manifest in helm.render(values)}
        assert {one["kind"] for one in values.get("extraObjects", [])} <= kinds


def test_every_documented_value_exists() -> None:
    """Where a page names a value of the chart, values.yaml has it."""
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    values["settings"] = dict.fromkeys(schema["properties"]["settings"]["properties"])
    named: set[str] = set()
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        text = page.read_text()
        for words in re.findall(r"`([^`\n]+)`", text) + re.findall(
            r"--set(?:-string)? (\S+)", text
        ):
            path = re.match(r"'?([A-Za-z]\w*(?:\.\w+)+)(?:\[0\]\S*)?(?:=|$|')", words)
            # metrics.py and fence.json.lock are files.
            file = re.search(r"/|\.(py|md|ya?ml|json|ini|cfg|tpl|lock)$", words)
            if path and not file and path[1].split(".")[0] in values:
                named.add(path[1])
    assert len(named) > 60
    for path in sorted(named):
        value: Any = values
        for key in path.split("."):
            assert key in value, f"{path} is no value"
            value = value[key]
