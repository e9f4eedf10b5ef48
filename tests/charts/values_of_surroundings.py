"""Values: network policies, monitoring and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.charts.pairs import CONTROLLER, PEER, Pair, egress, egress_ports, exists, in_object, names

NETWORK = [
    Pair(
        path="networkPolicy.enabled",
        value=False,
        look=names("NetworkPolicy"),
        unset=[f"tandem-{name}" for name in ("controller", "endpoint", "generate", "score", "train")],
        set=[],
    ),
    Pair(
        path="networkPolicy.dns",
        value=PEER,
        look=lambda release: [
            policy["spec"]["egress"][0].get("to") for policy in release.every("NetworkPolicy").values()
        ],
        unset=[None] * 5,
        set=[PEER] * 5,
    ),
    Pair(
        path="networkPolicy.apiServer",
        value=PEER,
        look=lambda release: release.one("NetworkPolicy", CONTROLLER)["spec"]["egress"][-1].get("to"),
        unset=None,
        set=PEER,
    ),
    Pair(
        path="networkPolicy.apiServerPorts",
        value=[16443],
        look=egress_ports("controller"),
        unset=[53, 80, 443, 6443],
        set=[53, 80, 443, 16443],
    ),
    Pair(
        path="networkPolicy.store",
        value=PEER,
        given={"s3": {"endpoint": "http://s3:9000"}},
        look=lambda release: [egress(name, 9000)(release) for name in ("train", "controller")],
        unset=[[None], [None]],
        set=[[PEER], [PEER]],
    ),
    Pair(
        path="networkPolicy.hub",
        value=PEER,
        given={"hub": {"endpoint": "https://hub:8443"}},
        look=lambda release: [egress(name, 8443)(release) for name in ("train", "score", "controller")],
        unset=[[None], [None], []],
        set=[[PEER], [PEER], []],
    ),
    Pair(
        path="networkPolicy.judge",
        value=PEER,
        look=lambda release: [egress(name, 8000)(release) for name in ("score", "generate", "endpoint")],
        given={"networkPolicy": {"judgePorts": [8000], "endpointPorts": [9000]}},
        unset=[[None], [], []],
        set=[[PEER], [], []],
    ),
    Pair(
        path="networkPolicy.judgePorts",
        value=[8000],
        look=egress_ports("score"),
        unset=[53, 80, 443],
        set=[53, 80, 443, 8000],
    ),
    Pair(
        path="networkPolicy.endpoint",
        value=PEER,
        given={"networkPolicy": {"endpointPorts": [8000]}},
        look=lambda release: [egress(name, 8000)(release) for name in ("endpoint", "generate", "score")],
        unset=[[None], [], []],
        set=[[PEER], [], []],
    ),
    Pair(
        path="networkPolicy.endpointPorts",
        value=[9000],
        look=egress_ports("endpoint"),
        unset=[53, 80, 443, 8000],
        set=[53, 80, 443, 9000],
    ),
    Pair(
        path="networkPolicy.proxy",
        value=PEER,
        given={"proxy": {"https": "http://p:3128"}},
        look=egress("train", 3128),
        unset=[None],
        set=[PEER],
    ),
    Pair(
        path="networkPolicy.credentials",
        value=[],
        look=egress("train", 80),
        unset=[[{"ipBlock": {"cidr": "169.254.170.23/32"}}]],
        set=[],
    ),
    Pair(
        path="networkPolicy.metricsFrom",
        value=PEER,
        given={"test": {"enabled": False}},
        look=lambda release: release.one("NetworkPolicy", CONTROLLER)["spec"]["ingress"][0].get("from"),
        unset=None,
        set=PEER,
    ),
    Pair(
        path="networkPolicy.extraEgress",
        value=[{"to": PEER}],
        look=lambda release: [
            {"to": PEER} in policy["spec"]["egress"] for policy in release.every("NetworkPolicy").values()
        ],
        unset=[False] * 5,
        set=[True] * 5,
    ),
]

MONITORED: Mapping[str, Any] = {"metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}
MONITORING = [
    Pair(
        path="metrics.serviceMonitor.enabled",
        value=True,
        look=in_object("ServiceMonitor", CONTROLLER, "spec", "endpoints"),
        unset=None,
        set=[{"port": "http", "path": "/metrics", "interval": "30s", "scrapeTimeout": "10s"}],
    ),
    Pair(
        path="metrics.serviceMonitor.labels",
        value={"a": "b"},
        given=MONITORED,
        look=in_object("ServiceMonitor", CONTROLLER, "metadata", "labels", "a"),
        unset=None,
        set="b",
    ),
    Pair(
        path="metrics.serviceMonitor.interval",
        value="1m",
        given=MONITORED,
        look=in_object("ServiceMonitor", CONTROLLER, "spec", "endpoints", 0, "interval"),
        unset="30s",
        set="1m",
    ),
    Pair(
        path="metrics.serviceMonitor.scrapeTimeout",
        value="1s",
        given=MONITORED,
        look=in_object("ServiceMonitor", CONTROLLER, "spec", "endpoints", 0, "scrapeTimeout"),
        unset="10s",
        set="1s",
    ),
    Pair(
        path="metrics.prometheusRule.enabled",
        value=True,
        look=exists("PrometheusRule", CONTROLLER),
        unset=False,
        set=True,
    ),
    Pair(
        path="metrics.prometheusRule.labels",
        value={"a": "b"},
        given=MONITORED,
        look=in_object("PrometheusRule", CONTROLLER, "metadata", "labels", "a"),
        unset=None,
        set="b",
    ),
    Pair(
        path="metrics.prometheusRule.downForMinutes",
        value=3,
        given=MONITORED,
        look=in_object("PrometheusRule", CONTROLLER, "spec", "groups", 0, "rules", 0, "for"),
        unset="10m",
        set="3m",
    ),
    Pair(
        path="metrics.prometheusRule.extraRules",
        value=[{"alert": "A", "expr": "1"}],
        given=MONITORED,
        look=lambda release: [
            rule["alert"] for rule in release.one("PrometheusRule", CONTROLLER)["spec"]["groups"][0]["rules"]
        ],
        unset=["TandemControllerDown", "TandemStoreDown"],
        set=["TandemControllerDown", "TandemStoreDown", "A"],
    ),
    Pair(path="test.enabled", value=False, look=names("Pod"), unset=[f"{CONTROLLER}-test"], set=[]),
]

NAMES = [
    Pair(
        path="nameOverride",
        value="other",
        look=names("Deployment"),
        unset=[CONTROLLER],
        set=["tandem-other-controller"],
    ),
    Pair(
        path="fullnameOverride", value="other", look=names("Deployment"), unset=[CONTROLLER], set=["other-controller"]
    ),
    Pair(
        path="commonLabels",
        value={"a": "b"},
        look=lambda release: {found["metadata"]["labels"].get("a") for found in release.objects},
        unset={None},
        set={"b"},
    ),
]
