"""What Helm and kubectl need of a cluster, in memory.

No Kubernetes is at hand where the tests run. This one stores objects, tells of them (get, list,
watch), merges patches, and holds what is sent to it against the schemas of the newest Kubernetes,
strictly. It plays the controllers: a Deployment has pods at once, a StatefulSet too, with a claim
for each, a Job has run, a claim is bound.
A pod or Job runs only if every Secret, ConfigMap, claim and service account that it names exists.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import http.server
import itertools
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import helm
import kubernetes_validate
import yaml

Object = dict[str, Any]
VERSION = helm.VERSIONS[1]

# Group, version, plural, kind, whether in a namespace.
KINDS = [
    ("", "v1", "configmaps", "ConfigMap", True),
    ("", "v1", "events", "Event", True),
    ("", "v1", "namespaces", "Namespace", False),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True),
    ("", "v1", "pods", "Pod", True),
    ("", "v1", "secrets", "Secret", True),
    ("", "v1", "serviceaccounts", "ServiceAccount", True),
    ("", "v1", "services", "Service", True),
    ("apps", "v1", "deployments", "Deployment", True),
    ("apps", "v1", "replicasets", "ReplicaSet", True),
    ("apps", "v1", "statefulsets", "StatefulSet", True),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True),
    ("batch", "v1", "jobs", "Job", True),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", True),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", True),
    ("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule", True),
    ("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor", True),
    ("traefik.io", "v1alpha1", "middlewares", "Middleware", True),
    ("traefik.io", "v1alpha1", "serverstransports", "ServersTransport", True),
]
_SHORT = {
    "persistentvolumeclaims": "pvc",
    "deployments": "deploy",
    "statefulsets": "sts",
    "namespaces": "ns",
    "services": "svc",
    "pods": "po",
}

# What an update may change of a StatefulSet's specification.
_STATEFUL = {"minReadySeconds", "ordinals", "persistentVolumeClaimRetentionPolicy", "replicas"}
_STATEFUL |= {"revisionHistoryLimit", "template", "updateStrategy"}
# What an update may not change: by kind, the path.
_IMMUTABLE = {
    "Deployment": ("spec", "selector"),
    "Job": ("spec", "template"),
    "PersistentVolumeClaim": ("spec", "storageClassName"),
}
# By which a strategic merge patch tells the items of a list apart, first those that every item has.
_KEYS = ("name", "mountPath", "containerPort", "port", "topologyKey", "key", "type")


class Refused(Exception):
    """An answer that is no object: HTTP status, reason, message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def _merge(old: Any, new: Any) -> Any:
    """RFC 7386."""
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _strategic(old: Any, new: Any) -> Any:
    """A strategic merge patch, as far as Helm 3 and kubectl send it."""
    if isinstance(new, list):
        if not new or not all(isinstance(item, dict) for item in new):
            return new
        plain = [item for item in new if "$patch" not in item]
        key = next((k for k in _KEYS if all(k in item for item in new)), None)
        if key is None or not isinstance(old, list):
            return [_strategic({}, item) for item in plain]
        result = list(old)
        for item in new:
            places = [n for n, had in enumerate(result) if had.get(key) == item[key]]
            if item.get("$patch") == "delete":
                result = [had for had in result if had.get(key) != item[key]]
            elif places:
                result[places[0]] = _strategic(result[places[0]], item)
            else:
                result.append(item)
        return result
    if not isinstance(new, dict):
        return new
    result = {} if new.get("$patch") == "replace" else dict(old) if isinstance(old, dict) else {}
    keep = new.get("$retainKeys")
    if keep is not None:
        result = {key: value for key, value in result.items() if key in keep}
    for key, value in new.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _strategic(result.get(key), value)
    return result


def _without(old: Any, last: Any, new: Any) -> Any:
    """An object without what a manager applied the last time and does not any more."""
    if not (isinstance(old, dict) and isinstance(last, dict) and isinstance(new, dict)):
        return old
    return {
        key: _without(value, last.get(key), new.get(key))
        for key, value in old.items()
        if key in new or key not in last
    }


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a protocol buffer's length-delimited fields."""

    def number() -> int:
        nonlocal place
        result = shift = 0
        while True:
            byte = data[place]
            place += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    place = 0
    while place < len(data):
        field, kind = divmod(number(), 8)
        length = number()
        if kind == 2:
            yield field, data[place : place + length]
            place += length


def _secret(body: bytes) -> Object:
    """A Secret as Helm sends it to keep a release: k8s.io/api's protocol buffer."""

    def pairs(message: list[tuple[int, bytes]], field: int) -> Object:
        found = [dict(_fields(content)) for number, content in message if number == field]
        return {pair[1].decode(): pair.get(2, b"") for pair in found}

    assert body[:4] == b"k8s\0"
    unknown = dict(_fields(body[4:]))
    assert dict(_fields(unknown[1]))[2] == b"Secret"
    secret = list(_fields(unknown[2]))
    metadata = list(_fields(dict(secret)[1]))
    labels = {name: value.decode() for name, value in pairs(metadata, 11).items()}
    data = {name: base64.b64encode(value).decode() for name, value in pairs(secret, 2).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": dict(metadata)[1].decode(), "labels": labels},
        "type": dict(secret)[3].decode(),
        "data": data,
    }


def _selected(selector: str, labels: dict[str, str]) -> bool:
    """Whether a label selector in its text form matches."""
    for term in re.split(r",(?![^(]*\))", selector):
        among = re.fullmatch(r"(\S+) (in|notin) \((.*)\)", term)
        if among:
            values = [value.strip() for value in among[3].split(",")]
            if (labels.get(among[1]) in values) != (among[2] == "in"):
                return False
        elif "!=" in term:
            name, _, value = term.partition("!=")
            if labels.get(name) == value:
                return False
        elif "=" in term:
            name, value = re.split("==?", term, maxsplit=1)
            if labels.get(name) != value:
                return False
        elif (term.lstrip("!") in labels) == term.startswith("!"):
            return False
    return True


class Cluster:
    """An API server on a port of 127.0.0.1."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str, str], Object] = {}
        self.events: list[tuple[int, str, str, str, Object]] = []
        self.history: list[str] = []
        """What was made, changed and deleted, in order, as `create Job uniqueid-dbsync`."""
        self.failing: set[str] = set()
        """Names of Jobs that fail."""
        self.stuck: list[str] = []
        """Pods that named what did not exist."""
        self._applied: dict[tuple[Any, ...], Object] = {}
        self._changed = threading.Condition(threading.RLock())
        self._version = itertools.count(1)
        self._now = 0
        self._closed = False
        self.create_namespace("default")
        self.create_namespace("science")
        cluster = self

        class Handler(_Handler):
            pass

        Handler.cluster = cluster
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path) -> Path:
        """Write the file that leads here."""
        file = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "namespace": "science"}}],
        }
        path.write_text(yaml.safe_dump(file))
        return path

    def get(self, kind: str, name: str, namespace: str = "science") -> Object | None:
        """An object; None when there is none."""
        with self._changed:
            (plural,) = [row[2] for row in KINDS if row[3] == kind]
            (group,) = [row[0] for row in KINDS if row[3] == kind]
            found = self.objects.get((group, plural, namespace, name))
            return copy.deepcopy(found)

    def of(self, kind: str, namespace: str = "science") -> list[Object]:
        """All objects of a kind in a namespace."""
        with self._changed:
            (plural,) = [row[2] for row in KINDS if row[3] == kind]
            return [
                copy.deepcopy(found)
                for (_group, plural_, namespace_, _name), found in self.objects.items()
                if (plural_, namespace_) == (plural, namespace)
            ]

    def create_namespace(self, name: str) -> None:
        """Make a namespace with its service account."""
        self.write(("", "namespaces", "", name), {"kind": "Namespace", "apiVersion": "v1"})

    def put(self, manifest: Object, namespace: str = "science") -> None:
        """Make an object, or replace it."""
        (row,) = [row for row in KINDS if row[3] == manifest["kind"]]
        place = namespace if row[4] else ""
        self.write((row[0], row[2], place, manifest["metadata"]["name"]), manifest)

    # -- storage ---------------------------------------------------------------------------------

    def write(self, key: tuple[str, str, str, str], new: Object) -> Object:
        """Store an object, tell the watchers, and let the controllers act."""
        with self._changed:
            old = self.objects.get(key)
            made = copy.deepcopy(new)
            metadata = made.setdefault("metadata", {})
            kind = made["kind"]
            metadata["name"] = key[3]
            if key[2]:
                metadata["namespace"] = key[2]
            self._now = next(self._version)
            metadata["resourceVersion"] = str(self._now)
            if old is None:
                metadata["uid"] = str(uuid.uuid4())
                metadata["generation"] = 1
            else:
                metadata["uid"] = old["metadata"]["uid"]
                same = old.get("spec") == made.get("spec")
                metadata["generation"] = old["metadata"]["generation"] + (0 if same else 1)
                if kind in _IMMUTABLE:
                    first, second = _IMMUTABLE[kind]
                    if old.get(first, {}).get(second) != made.get(first, {}).get(second):
                        path = f"{first}.{second}"
                        raise Refused(422, "Invalid", f"{path}: field is immutable")
                if kind == "StatefulSet":
                    before, after = old["spec"], made["spec"]
                    for field in (before.keys() | after.keys()) - _STATEFUL:
                        if before.get(field) != after.get(field):
                            path = f"spec.{field}"
                            raise Refused(422, "Invalid", f"{path}: updates are forbidden")
            metadata["creationTimestamp"] = (
                old["metadata"]["creationTimestamp"] if old else "2026-01-01T00:00:00Z"
            )
            if kind == "Secret" and "stringData" in made:
                data = made.setdefault("data", {})
                for name, text in made.pop("stringData").items():
                    data[name] = base64.b64encode(text.encode()).decode()
            if kind in ("Deployment", "StatefulSet"):
                made["spec"].setdefault("replicas", 1)
            if kind == "Service":
                before = old["spec"] if old else {"clusterIP": "10.0.0.10"}
                made["spec"].setdefault("clusterIP", before["clusterIP"])
            self.objects[key] = made
            verb = "create" if old is None else "update"
            if kind not in ("Event", "ReplicaSet") and not metadata.get("ownerReferences"):
                self.history.append(f"{verb} {kind} {key[3]}")
            self._tell("ADDED" if old is None else "MODIFIED", key, made)
            self._control(key, made)
            return self.objects[key]

    def delete(self, key: tuple[str, str, str, str]) -> Object:
        """Remove an object, and what it owns."""
        with self._changed:
            if key not in self.objects:
                raise Refused(404, "NotFound", f'{key[1]} "{key[3]}" not found')
            gone = self.objects.pop(key)
            self._now = next(self._version)
            gone["metadata"]["resourceVersion"] = str(self._now)
            if not gone["metadata"].get("ownerReferences"):
                self.history.append(f"delete {gone['kind']} {key[3]}")
            self._tell("DELETED", key, gone)
            self._applied = {k: v for k, v in self._applied.items() if k[:4] != key}
            uid = gone["metadata"]["uid"]
            for other in self._owned(uid):
                if other in self.objects:
                    self.delete(other)
            # The owner of a pod makes another one, unless it is gone itself.
            owners = {one["uid"] for one in gone["metadata"].get("ownerReferences", [])}
            for other, found in list(self.objects.items()):
                if found["metadata"]["uid"] in owners:
                    self._control(other, found)
            return gone

    def _owned(self, uid: str) -> list[tuple[str, str, str, str]]:
        """The keys of what an object owns."""
        return [
            key
            for key, found in self.objects.items()
            if any(one["uid"] == uid for one in found["metadata"].get("ownerReferences", []))
        ]

    def _tell(self, event: str, key: tuple[str, str, str, str], found: Object) -> None:
        self.events.append((self._now, event, f"{key[0]}/{key[1]}", key[2], copy.deepcopy(found)))
        self._changed.notify_all()

    def _settle(self, key: tuple[str, str, str, str], status: Object) -> None:
        """Set a status, as a controller does."""
        found = self.objects[key]
        if found.get("status") != status:
            found["status"] = status
            self._now = next(self._version)
            found["metadata"]["resourceVersion"] = str(self._now)
            self._tell("MODIFIED", key, found)

    # -- controllers -----------------------------------------------------------------------------

    def _control(self, key: tuple[str, str, str, str], found: Object) -> None:
        kind = found["kind"]
        if kind == "PersistentVolumeClaim":
            self._settle(key, {"phase": "Bound"})
        elif kind == "Namespace":
            self._settle(key, {"phase": "Active"})
            self.put(
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
                key[3],
            )
        elif kind == "Job":
            if self._can_run(key[2], f"Job {key[3]}", found["spec"]["template"]["spec"]):
                ends = ("FailureTarget", "Failed") if key[3] in self.failing else ()
                ends = ends or ("SuccessCriteriaMet", "Complete")
                done = [{"type": kind, "status": "True"} for kind in ends]
                self._settle(key, {"conditions": done})
        elif kind == "Deployment":
            self._roll(key, found)
        elif kind == "StatefulSet":
            self._number(key, found)
        elif kind == "Pod" and "status" not in found:
            self._start(key, found)

    def _start(self, key: tuple[str, str, str, str], pod: Object) -> None:
        """A pod without an owner, as the one of `helm test`, has run."""
        if self._can_run(key[2], f"Pod {key[3]}", pod["spec"]):
            self._settle(key, self._pod_status("Succeeded"))

    @staticmethod
    def _pod_status(phase: str) -> Object:
        ready = "True" if phase == "Running" else "False"
        conditions = [{"type": kind, "status": ready} for kind in ("Ready", "ContainersReady")]
        return {"phase": phase, "conditions": conditions}

    def _can_run(self, namespace: str, what: str, spec: Object) -> bool:
        """Whether everything exists that a pod names; noted otherwise."""
        needed = [("serviceaccounts", spec.get("serviceAccountName", "default"))]
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                needed.append(("configmaps", volume["configMap"]["name"]))
            if "secret" in volume:
                needed.append(("secrets", volume["secret"]["secretName"]))
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                needed.append(("persistentvolumeclaims", claim))
        for container in helm.containers(spec):
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {}).get("secretKeyRef")
                if source:
                    needed.append(("secrets", source["name"]))
        missing = [
            f"{plural} {name}"
            for plural, name in needed
            if ("", plural, namespace, name) not in self.objects
        ]
        self.stuck += [f"{what}: {name} does not exist" for name in missing]
        return not missing

    def _keep(self, key: tuple[str, str, str, str], plural: str, wanted: dict[str, Object]) -> None:
        """Make the objects that a workload wants, by name, and remove its others of that kind."""
        owner = self.objects[key]
        uid = owner["metadata"]["uid"]
        reference = {"apiVersion": "apps/v1", "kind": owner["kind"], "name": key[3], "uid": uid}
        reference["controller"] = True
        for other in self._owned(uid):
            old = self.objects[other]
            new = wanted.get(other[3])
            if other[1] == plural and (new is None or new["spec"] != old["spec"]):
                self.objects.pop(other)
        for name, made in wanted.items():
            place = (key[0] if plural == "replicasets" else "", plural, key[2], name)
            if place not in self.objects:
                made.setdefault("metadata", {})["ownerReferences"] = [reference]
                self.write(place, made)

    def _pod(self, template: Object) -> Object:
        """A pod of a workload's template, which runs."""
        status = self._pod_status("Running")
        return {**copy.deepcopy(template), "apiVersion": "v1", "kind": "Pod", "status": status}

    def _roll(self, key: tuple[str, str, str, str], deployment: Object) -> None:
        """The ReplicaSet of a Deployment's template, which Helm 3 waits for, and its pods."""
        spec, generation = deployment["spec"], deployment["metadata"]["generation"]
        replicas = spec["replicas"]
        runs = self._can_run(key[2], f"Deployment {key[3]}", spec["template"]["spec"])
        text = json.dumps(spec["template"], sort_keys=True)
        name = f"{key[3]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        up = replicas if runs else 0
        made = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"labels": dict(spec["template"]["metadata"]["labels"])},
            "spec": {key: spec[key] for key in ("replicas", "selector", "template")},
            "status": {"observedGeneration": 1, "replicas": replicas, "readyReplicas": up},
        }
        self._keep(key, "replicasets", {name: made})
        pods = {f"{name}-{number}": self._pod(spec["template"]) for number in range(up)}
        self._keep(key, "pods", pods)
        state = "True" if runs else "False"
        conditions = [
            {"type": "Available", "status": state, "reason": "MinimumReplicasAvailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ]
        counts = {"readyReplicas": up, "availableReplicas": up, "updatedReplicas": replicas}
        status = {"observedGeneration": generation, "replicas": replicas, **counts}
        self._settle(key, {**status, "conditions": conditions})

    def _number(self, key: tuple[str, str, str, str], stateful: Object) -> None:
        """The numbered pods of a StatefulSet's template, each on claims of its own, which stay."""
        spec = stateful["spec"]
        pods = {}
        for number in range(spec["replicas"]):
            name = f"{key[3]}-{number}"
            pod = self._pod(spec["template"])
            for template in spec.get("volumeClaimTemplates", []):
                volume = template["metadata"]["name"]
                claim = f"{volume}-{name}"
                place = ("", "persistentvolumeclaims", key[2], claim)
                if place not in self.objects:
                    made = {**template, "apiVersion": "v1", "kind": "PersistentVolumeClaim"}
                    self.write(place, made)
                pod["spec"].setdefault("volumes", []).append(
                    {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
                )
            if self._can_run(key[2], f"Pod {name}", pod["spec"]):
                pods[name] = pod
        self._keep(key, "pods", pods)
        status: Object = dict.fromkeys(("currentRevision", "updateRevision"), key[3])
        status |= {"observedGeneration": stateful["metadata"]["generation"]}
        for count in ("current", "updated", "ready", "available"):
            status[f"{count}Replicas"] = len(pods)
        self._settle(key, {**status, "replicas": spec["replicas"]})

    # -- what HTTP asks --------------------------------------------------------------------------

    def check(self, sent: Object) -> None:
        """Refuse what the schemas of the newest Kubernetes do not allow."""
        kind = sent.get("kind")
        if kind in helm.CUSTOM:
            problems = helm.custom_problems([sent])
            if problems:
                raise Refused(422, "Invalid", "; ".join(problems))
        else:
            try:
                kubernetes_validate.validate(sent, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refused(422, "Invalid", str(error)[:2000]) from error

    def patch(
        self, key: tuple[str, str, str, str], row: Any, how: str, body: bytes, manager: str
    ) -> tuple[int, Object]:
        with self._changed:
            old = self.objects.get(key)
            patch = yaml.safe_load(body)
            if how == "application/apply-patch+yaml":
                self.check(patch)
                who = (*key, manager)
                base = _without(old or {}, self._applied.get(who), patch)
                made = _merge(base, patch)
                made = self.write(key, made)
                self._applied[who] = patch
                return (200 if old else 201), made
            if old is None:
                raise Refused(404, "NotFound", f'{key[1]} "{key[3]}" not found')
            join = _strategic if how == "application/strategic-merge-patch+json" else _merge
            made = join(old, patch)
            self.check({k: v for k, v in made.items() if k != "status"})
            return 200, self.write(key, made)

    def watch(
        self, resource: str, namespace: str, chosen: Callable[[Object], bool], since: int
    ) -> Iterator[Object | None]:
        """Events after a version, forever; None every second in which there is none."""
        place = 0
        while True:
            with self._changed:
                if place == len(self.events) and not self._closed:
                    self._changed.wait(1)
                news = self.events[place:]
                place = len(self.events)
                if self._closed:
                    return
            sent = False
            for version, event, what, where, found in news:
                wanted = version > since and what == resource and namespace in ("", where)
                if wanted and chosen(found):
                    sent = True
                    yield {"type": event, "object": found}
            if not sent:
                yield None


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        """Quiet."""

    def _answer(self, status: int, found: Any, kind: str = "application/json") -> None:
        body = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            self._route(parts.path.rstrip("/"), body)
        except Refused as refused:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": refused.status,
                "reason": refused.reason,
                "message": str(refused),
            }
            self._answer(refused.status, status)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _route(self, path: str, body: bytes) -> None:
        groups = {row[0]: row[1] for row in KINDS}
        if path == "/version":
            major, minor, _patch = VERSION.split(".")
            self._answer(200, {"major": major, "minor": minor, "gitVersion": f"v{VERSION}"})
        elif path == "/api":
            self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            found = []
            for group, version in groups.items():
                if group:
                    known = {"groupVersion": f"{group}/{version}", "version": version}
                    found.append({"name": group, "versions": [known], "preferredVersion": known})
            self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": found})
        elif path == "/openapi/v2":
            # An empty protocol buffer: kubectl leaves the checks to the server, which makes them.
            self._answer(200, "", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
        elif path == "/openapi/v3":
            bases = {group: f"apis/{group}" if group else "api" for group in groups}
            paths = {
                f"{bases[group]}/{version}": {
                    "serverRelativeURL": f"/openapi/v3/{bases[group]}/{version}"
                }
                for group, version in groups.items()
            }
            self._answer(200, {"paths": paths})
        elif path.startswith("/openapi/v3/"):
            self._answer(200, self._openapi(path.removeprefix("/openapi/v3")))
        else:
            self._resource(path, body)

    def _openapi(self, base: str) -> Object:
        """That the server itself checks fields, so that kubectl does not."""
        paths = {}
        for group, version, plural, kind, namespaced in KINDS:
            if base == (f"/apis/{group}/{version}" if group else "/api/v1"):
                place = "/namespaces/{namespace}" if namespaced else ""
                paths[f"{base}{place}/{plural}/{{name}}"] = {
                    "patch": {
                        "parameters": [{"name": "fieldValidation", "in": "query"}],
                        "x-kubernetes-group-version-kind": {
                            "group": group,
                            "version": version,
                            "kind": kind,
                        },
                    }
                }
        info = {"title": "Kubernetes", "version": VERSION}
        return {"openapi": "3.0.0", "info": info, "paths": paths}

    def _resource(self, path: str, body: bytes) -> None:
        found = re.fullmatch(
            r"(?:/api|/apis/(?P<group>[^/]+))/(?P<version>[^/]+)"
            r"(?:(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
            r"(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?)?",
            path,
        )
        if not found:
            raise Refused(404, "NotFound", f"no such path: {path}")
        group, version = found["group"] or "", found["version"]
        rows = [row for row in KINDS if row[:2] == (group, version)]
        if not rows:
            raise Refused(404, "NotFound", f"no such group: {path}")
        if found["plural"] is None:
            self._answer(200, self._kinds(group, version, rows))
            return
        plural, namespace, name = found["plural"], found["namespace"] or "", found["name"] or ""
        if path.count("/") == 4 and plural == "namespaces" and name:
            namespace = ""
        match = [row for row in rows if row[2] == plural]
        if not match:
            raise Refused(404, "NotFound", f"no such resource: {path}")
        (row,) = match
        key = (group, plural, namespace, name)
        if found["sub"] == "scale":
            self._scale(key, body)
        elif self.command == "GET" and name:
            self._answer(200, self._one(key))
        elif self.command == "GET":
            self._list(row, namespace)
        elif self.command == "POST":
            sent = self._sent(body)
            self.cluster.check(sent)
            key = (*key[:3], sent["metadata"]["name"])
            with self.cluster._changed:
                if key in self.cluster.objects:
                    raise Refused(409, "AlreadyExists", f'{plural} "{key[3]}" already exists')
                made = self.cluster.write(key, sent)
                self._answer(201, made)
        elif self.command == "PUT":
            sent = self._sent(body)
            with self.cluster._changed:
                self._one(key)
                self._answer(200, self.cluster.write(key, sent))
        elif self.command == "PATCH":
            how = self.headers["Content-Type"]
            manager = self.query.get("fieldManager", "")
            status, made = self.cluster.patch(key, row, how, body, manager)
            self._answer(status, made)
        elif self.command == "DELETE" and name:
            self._answer(200, self.cluster.delete(key))
        else:
            raise Refused(405, "MethodNotAllowed", f"{self.command} {path}")

    def _scale(self, key: tuple[str, str, str, str], body: bytes) -> None:
        with self.cluster._changed:
            deployment = self._one(key)
            if self.command != "GET":
                deployment["spec"]["replicas"] = json.loads(body)["spec"]["replicas"]
                deployment = self.cluster.write(key, deployment)
        known = ("name", "namespace", "uid", "resourceVersion")
        scale = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {name: deployment["metadata"][name] for name in known},
            "spec": {"replicas": deployment["spec"]["replicas"]},
        }
        self._answer(200, scale)

    def _sent(self, body: bytes) -> Object:
        if self.headers["Content-Type"] == "application/vnd.kubernetes.protobuf":
            return _secret(body)
        sent: Object = json.loads(body)
        return sent

    def _one(self, key: tuple[str, str, str, str]) -> Object:
        with self.cluster._changed:
            if key not in self.cluster.objects:
                raise Refused(404, "NotFound", f'{key[1]} "{key[3]}" not found')
            return copy.deepcopy(self.cluster.objects[key])

    def _kinds(self, group: str, version: str, rows: list[Any]) -> Object:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = []
        for _group, _version, plural, kind, namespaced in rows:
            one = {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": verbs}
            one["singularName"] = kind.lower()
            one["shortNames"] = [_SHORT[plural]] if plural in _SHORT else []
            resources.append(one)
        name = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "groupVersion": name, "resources": resources}

    def _list(self, row: Any, namespace: str) -> None:
        group, version, plural, kind, _namespaced = row
        labels = self.query.get("labelSelector", "")
        fields = self.query.get("fieldSelector", "")

        def chosen(found: Object) -> bool:
            metadata = found["metadata"]
            if labels and not _selected(labels, metadata.get("labels", {})):
                return False
            known = {"metadata.name": metadata["name"]}
            known["metadata.namespace"] = metadata.get("namespace", "")
            return not fields or _selected(fields, known)

        if self.query.get("watch") in ("1", "true"):
            if "sendInitialEvents" in self.query:
                raise Refused(422, "Invalid", "sendInitialEvents: forbidden")
            self._watch(f"{group}/{plural}", namespace, chosen)
            return
        with self.cluster._changed:
            items = [
                copy.deepcopy(found)
                for (group_, plural_, namespace_, _name), found in self.cluster.objects.items()
                if (group_, plural_) == (group, plural) and namespace in ("", namespace_)
                if chosen(found)
            ]
            now = str(self.cluster._now)
        self._answer(
            200,
            {
                "kind": f"{kind}List",
                "apiVersion": f"{group}/{version}" if group else version,
                "metadata": {"resourceVersion": now},
                "items": items,
            },
        )

    def _watch(self, resource: str, namespace: str, chosen: Callable[[Object], bool]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        since = int(self.query.get("resourceVersion") or 0)
        try:
            for event in self.cluster.watch(resource, namespace, chosen, since):
                if event is not None:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    self.wfile.flush()
        except OSError:
            """The client has heard enough."""
