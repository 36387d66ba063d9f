"""Values by what they turn on, and values that must be refused."""

from __future__ import annotations

from typing import Any

from helm import merge

Values = dict[str, Any]

URL: Values = {"database": {"existingSecret": "counters"}}
MYSQL: Values = {"database": {"type": "mysql", "host": "db.science", "existingSecret": "counters"}}
POSTGRESQL: Values = {
    "database": {"type": "postgresql", "host": "db.science", "password": "p@ss%20w/rd: {x}"}
}

# Alone they say nothing of the database: each is rendered with every one that it admits.
FEATURES: dict[str, Values] = {
    "names": {
        "nameOverride": "ids",
        "fullnameOverride": "science-ids",
        "commonLabels": {"team": "science"},
        "commonAnnotations": {"contact": "ops"},
    },
    "image": {
        "image": {"registry": "", "repository": "mirror/ids", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "settings": {
        "settings": {
            "max_range": 1000000000,
            "allowed_modes": ["file", "upload_job"],
            "request_timeout": 0.5,
            "connect_attempts": 30,
            "connect_wait": 2,
            "durability": "require",
            "log_level": "debug",
            "journal": "off",
            "journal_ttl": 31536000,
        }
    },
    "uwsgi": {"uwsgi": {"threads": 16, "listen": 64, "options": {"harakiri": 70, "log-4xx": True}}},
    "dual stack": {
        "service": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}
    },
    "IPv6": {"service": {"ipFamilies": ["IPv6"]}},
    "node port": {
        "service": {
            "type": "NodePort",
            "nodePort": 30051,
            "externalTrafficPolicy": "Local",
            "annotations": {"a": "b"},
            "labels": {"c": "d"},
        }
    },
    "load balancer": {
        "service": {
            "type": "LoadBalancer",
            "loadBalancerClass": "example.com/internal",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
        }
    },
    **{
        f"ingress {controller}": {
            "ingress": {
                "enabled": True,
                "controller": controller,
                "className": "public",
                "annotations": {"cert-manager.io/cluster-issuer": "ca"},
                "labels": {"a": "b"},
                "tls": [{"secretName": "tls", "hosts": ["uniqueid.example.com"]}],
            }
        }
        for controller in ("none", "nginx", "traefik", "haproxy", "f5-nginx")
    },
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways"}],
            "hostnames": ["uniqueid.example.com"],
            "filters": [
                {
                    "type": "RequestHeaderModifier",
                    "requestHeaderModifier": {"remove": ["X-Internal"]},
                }
            ],
            "annotations": {"a": "b"},
            "labels": {"a": "b"},
        }
    },
    "ingress of ingress-nginx with headers": {
        "ingress": {"enabled": True, "controller": "nginx", "nginxCustomHeaders": True}
    },
    "no service account": {"serviceAccount": {"create": False, "name": "other"}},
    "service account": {"serviceAccount": {"annotations": {"a": "b"}}},
    "scheduling": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                    ]
                }
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule",
            }
        ],
        "priorityClassName": "high",
        "schedulerName": "other",
        "runtimeClassName": "gvisor",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
    },
    "extras": {
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraEnvFrom": [{"secretRef": {"name": "more", "optional": True}}],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
        "extraInitContainers": [{"name": "first", "image": "busybox:1"}],
        "extraContainers": [{"name": "beside", "image": "busybox:1"}],
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-extra"},
                "data": {"a": "b"},
            }
        ],
    },
    "disruption budget": {"podDisruptionBudget": {"enabled": True}},
    "network policy": {
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "databaseTo": [{"ipBlock": {"cidr": "10.0.0.5/32"}}],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.6/32"}}]}],
        }
    },
    "network policy, default": {"networkPolicy": {"enabled": True}},
    "metrics": {
        "metrics": {
            "serviceMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "namespace": "monitoring",
                "relabelings": [{"action": "labeldrop", "regex": "pod"}],
                "metricRelabelings": [{"action": "labeldrop", "regex": "node"}],
            },
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "namespace": "monitoring",
                "alertLabels": {"team": "science"},
                "extraRules": [{"record": "uniqueid:up", "expr": "up"}],
            },
            "dashboard": {"enabled": True, "namespace": "monitoring"},
        }
    },
    "tokens": {
        "tokens": {"existingSecret": "ids", "allocationKey": "allocate", "statusKey": "status"},
        "metrics": {
            "serviceMonitor": {
                "enabled": True,
                "authorization": {"credentials": {"name": "ids-plain", "key": "status"}},
            }
        },
    },
    "no dbsync": {"dbsync": {"mode": "none"}},
}
SQLITE_ONLY: dict[str, Values] = {
    "storage": {
        "persistence": {
            "size": "500Mi",
            "storageClass": "fast",
            "accessModes": ["ReadWriteOncePod"],
            "keep": False,
            "annotations": {"a": "b"},
            "labels": {"c": "d"},
        }
    },
    "no storage class": {"persistence": {"storageClass": "-"}},
    "own claim": {"persistence": {"existingClaim": "mine"}},
    "fence": {"fence": {"enabled": True, "window": 5000, "size": "1Gi", "storageClass": "slow"}},
}
NETWORK_ONLY: dict[str, Values] = {
    "replicas": {"replicas": 3},
    "autoscaling": {"autoscaling": {"enabled": True}},
    "hook": {
        "dbsync": {"mode": "hook", "annotations": {"a": "b"}},
        "networkPolicy": {"enabled": True},
        "settings": {"max_range": 5},
    },
    "recreate": {"strategy": {"type": "Recreate"}},
    "no preStop": {"preStopSeconds": 0},
}


FENCE: Values = {"fence": {"enabled": True}}
FENCES: Values = {"fence": {"enabled": True}, "replicas": 3}
MAINTENANCE: Values = {"maintenance": {"enabled": True}}
STOPPED: dict[str, Values] = {
    "": FEATURES["network policy"],
    ", fence": merge(FENCE, FEATURES["settings"]),
    ", hook": merge(POSTGRESQL, NETWORK_ONLY["hook"]),
    ", autoscaling": merge(MYSQL, NETWORK_ONLY["autoscaling"], FEATURES["tokens"]),
    ", fences": merge(MYSQL, FENCES, FEATURES["extras"]),
}


def everything(database: Values) -> Values:
    """All at once; of what excludes each other the last."""
    only = NETWORK_ONLY if database else SQLITE_ONLY
    return merge(
        database, *FEATURES.values(), *only.values(), {"dbsync": {"mode": "initContainer"}}
    )


def matrix() -> dict[str, Values]:
    """Every case by name."""
    cases: dict[str, Values] = {"defaults": {}, "url": URL, "mysql": MYSQL, "pg": POSTGRESQL}
    cases |= FEATURES
    cases |= {f"mysql, {name}": merge(MYSQL, values) for name, values in FEATURES.items()}
    cases |= SQLITE_ONLY
    for database, values in (("url", URL), ("mysql", MYSQL), ("pg", POSTGRESQL)):
        cases |= {f"{database}, {name}": merge(values, v) for name, v in NETWORK_ONLY.items()}
        cases[f"{database}, fences"] = merge(values, FENCES)
    cases["mysql, fence"] = merge(MYSQL, FENCE)
    cases["own claim of the fence"] = {"fence": {"enabled": True, "existingClaim": "mine"}}
    cases |= {f"maintenance{name}": merge(values, MAINTENANCE) for name, values in STOPPED.items()}
    cases["everything"] = everything({})
    cases["everything, mysql"] = everything(MYSQL)
    cases["everything, pg"] = everything(POSTGRESQL)
    cases["everything, fences"] = merge(
        everything(POSTGRESQL),
        FENCES,
        {"autoscaling": {"enabled": False}, "strategy": {"type": ""}},
    )
    return cases


def _ingress(**annotations: str) -> Values:
    names = {name.replace("__", "/"): value for name, value in annotations.items()}
    return {"ingress": {"enabled": True, "controller": "nginx", "annotations": names}}


# Each with what the sentence must say: the cause, and what to set.
REFUSED: dict[str, tuple[Values, tuple[str, ...]]] = {
    "tokens without a key": (
        {"tokens": {"existingSecret": "ids"}},
        ("tokens.existingSecret is ids", "set tokens.allocationKey"),
    ),
    "tokens without a Secret": (
        {"tokens": {"statusKey": "status"}},
        ("without a Secret", "set tokens.existingSecret"),
    ),
    "replicas": ({"replicas": 2}, ("replicas is 2", "SQLite", "set replicas to 1")),
    "autoscaling": (
        {"autoscaling": {"enabled": True}},
        ("autoscaling.enabled is true", "SQLite", "set autoscaling.enabled to false"),
    ),
    "rolling update": (
        {"strategy": {"type": "RollingUpdate"}},
        ("strategy.type is RollingUpdate", "set strategy.type to Recreate"),
    ),
    "rolling update of one pod's volume": (
        {
            "strategy": {"type": "RollingUpdate"},
            "persistence": {"accessModes": ["ReadWriteOncePod"]},
        },
        ("ReadWriteOncePod", "forever", "Set strategy.type to Recreate"),
    ),
    "fences of SQLite": (FENCES, ("replicas is 3", "SQLite", "set replicas to 1")),
    "fence of an autoscaler": (
        merge(MYSQL, FENCE, {"autoscaling": {"enabled": True}}),
        ("fence.enabled and autoscaling.enabled are both true", "autoscaling.enabled to false"),
    ),
    "fences of an autoscaler": (
        merge(MYSQL, FENCES, {"autoscaling": {"enabled": True}}),
        ("fence.enabled and autoscaling.enabled are both true", "autoscaling.enabled to false"),
    ),
    "one claim for several fences": (
        merge(MYSQL, FENCES, {"fence": {"existingClaim": "mine"}}),
        ("fence.existingClaim is mine and replicas is 3", "Remove fence.existingClaim"),
    ),
    "fences, recreated": (
        merge(MYSQL, FENCES, {"strategy": {"type": "Recreate"}}),
        ("replicas is 3 and strategy.type is Recreate", "Set strategy.type to RollingUpdate"),
    ),
    "rolling update with a fence": (
        merge(MYSQL, FENCE, {"strategy": {"type": "RollingUpdate"}}),
        ("fence.enabled is true and strategy.type is RollingUpdate", "Recreate"),
    ),
    "two passwords": (
        merge(MYSQL, {"database": {"password": "x"}}),
        ("database.password and database.existingSecret", "set one"),
    ),
    "two passwords, url": (
        merge(URL, {"database": {"password": "x"}}),
        ("database.password and database.existingSecret", "set one"),
    ),
    "no password": (
        {"database": {"type": "mysql", "host": "db"}},
        ("without a password", "set database.existingSecret"),
    ),
    "no host": ({"database": {"type": "mysql"}}, ("database.type is mysql", "set database.host")),
    "host of SQLite": (
        {"database": {"host": "db", "password": "x"}},
        ("database.type is sqlite", "set database.type to mysql or postgresql"),
    ),
    "password of SQLite": (
        {"database": {"password": "x"}},
        ("database.password is set", "remove database.password"),
    ),
    "hook": (
        {"dbsync": {"mode": "hook"}},
        ("dbsync.mode is hook", "set dbsync.mode to initContainer"),
    ),
    "grace": (
        merge(MYSQL, {"preStopSeconds": 30}),
        ("terminationGracePeriodSeconds is 75", "at least", "90"),
    ),
    "autoscaling bounds": (
        merge(MYSQL, {"autoscaling": {"enabled": True, "minReplicas": 5}}),
        ("autoscaling.minReplicas is 5", "set minReplicas"),
    ),
    "route without gateway": (
        {"httpRoute": {"enabled": True}},
        ("httpRoute.enabled is true", "set httpRoute.parentRefs"),
    ),
    "another modifier": (
        {
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "x"}],
                "filters": [{"type": "ResponseHeaderModifier"}],
            }
        },
        ("ResponseHeaderModifier", "remove it"),
    ),
    "cache": (
        _ingress(**{"nginx.ingress.kubernetes.io__proxy-cache": "zone"}),
        ("proxy-cache", "caches or retries", "Remove it"),
    ),
    "cache in a snippet": (
        _ingress(**{"nginx.ingress.kubernetes.io__configuration-snippet": "proxy_cache zone;"}),
        ("configuration-snippet", "Remove it"),
    ),
    "ignored headers": (
        _ingress(**{"nginx.org__location-snippets": "proxy_ignore_headers Cache-Control;"}),
        ("location-snippets", "Remove it"),
    ),
    "retry": (
        _ingress(**{"nginx.ingress.kubernetes.io__proxy-next-upstream": "error timeout"}),
        ("proxy-next-upstream", "Remove it"),
    ),
    "retry elsewhere": (
        _ingress(**{"projectcontour.io__num-retries": "3"}),
        ("num-retries", "Remove it"),
    ),
    "buffering of the preset": (
        _ingress(**{"nginx.ingress.kubernetes.io__proxy-buffering": "on"}),
        ("proxy-buffering", "Remove it"),
    ),
    "retrying middleware": (
        {
            "ingress": {
                "enabled": True,
                "controller": "traefik",
                "annotations": {
                    "traefik.ingress.kubernetes.io/router.middlewares": "x-retry@kubernetescrd"
                },
            }
        },
        ("router.middlewares", "remove it"),
    ),
    "retry of the service": (
        {"service": {"annotations": {"haproxy.org/backend-config-snippet": "retries 3"}}},
        ("service.annotations", "Remove it"),
    ),
    "retry of the route": (
        {"httpRoute": {"annotations": {"nginx.org/proxy-next-upstream": "error"}}},
        ("httpRoute.annotations", "Remove it"),
    ),
    "cache of Kong": (
        _ingress(**{"konghq.com__plugins": "auth, proxy-cache-ids"}),
        ("konghq.com/plugins", "Remove it"),
    ),
    "retries of Kong": (
        {"service": {"annotations": {"konghq.com/retries": "5"}}},
        ("service.annotations", "Remove it"),
    ),
    "retry everywhere": (
        {"commonAnnotations": {"retry.linkerd.io/http": "5xx"}},
        ("commonAnnotations", "Remove it"),
    ),
}
