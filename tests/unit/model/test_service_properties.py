# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for the services of every cluster, and for manifests with mistakes in them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6, VERSIONS
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import service_parts
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes import endpoint_slice as slices
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.manifests import (
    of_list,
    read_manifests,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import Section
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import parse_node
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_table import ServiceTable, service_table
from tests.corrupted import Document, corrupted, integer, mistakes
from tests.manifests import NODE, Object, endpoint, endpoint_slice, service, table

MANY = settings(max_examples=400, derandomize=True, database=None)
# One of everything.
DOCUMENT: Document = {
    "services": [
        {
            **service(
                "web",
                type="LoadBalancer",
                clusterIPs=["10.96.0.10", "fd00:96::a"],
                ipFamilies=["IPv4", "IPv6"],
                ipFamilyPolicy="RequireDualStack",
                ports=[
                    {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
                ],
                externalIPs=["198.51.100.1"],
                externalTrafficPolicy="Local",
                internalTrafficPolicy="Cluster",
                healthCheckNodePort=30090,
                sessionAffinity="ClientIP",
                sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
                loadBalancerSourceRanges=["192.0.2.0/24"],
                status={"loadBalancer": {"ingress": [{"ip": "198.51.100.2", "ipMode": "VIP"}]}},
            ),
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        },
        endpoint_slice(
            endpoint("10.244.1.5", "n1", {"ready": True, "serving": True, "terminating": False}, zones=["zone-a"]),
            endpoint("10.244.2.5", "n2", {"ready": True, "serving": True, "terminating": False}, nodes=["n1"]),
            ports=[
                {"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "dns", "port": 5353, "protocol": "UDP"},
            ],
        ),
    ]
}
SPEC, SLICE = "services[0].spec", "services[1]"
WORDS = ("", "x", 7, True, [], {})
MISTAKES = list(
    mistakes(
        {
            "services": (7, True, "x", {}),
            "services[0]": "section",
            "services[0].kind": (7, True, [], {}),
            "services[0].apiVersion": (7, "v2", "v1beta1", True, [], {}),
            "services[0].metadata": "section",
            "services[0].metadata.name": "name",
            "services[0].metadata.namespace": [value for value in ("Default", "a.b", 7, True, [], {})],
            "services[0].metadata.labels": "section",
            SPEC: "section",
            f"{SPEC}.type": ("clusterIP", "x", 7, True, [], {}),
            f"{SPEC}.clusterIP": ("10.96.0.9", "x", 7, True, [], {}),
            f"{SPEC}.clusterIPs": "list",
            f"{SPEC}.clusterIPs[0]": (*WORDS, "10.96.0", "127.0.0.1", "0.0.0.0", "::ffff:10.96.0.10"),
            f"{SPEC}.clusterIPs[1]": (*WORDS, "fd00:96::g", "::1", "::"),
            f"{SPEC}.ipFamilies": "list",
            f"{SPEC}.ipFamilies[0]": (*WORDS, "ipv4", "IPv6"),
            f"{SPEC}.ipFamilyPolicy": ("x", "Dual", 7, True, [], {}),
            f"{SPEC}.ports": (7, True, "x", {}, []),
            f"{SPEC}.ports[0]": "section",
            f"{SPEC}.ports[0].port": integer(1, 65535),
            f"{SPEC}.ports[0].protocol": ("tcp", "HTTP", 7, True, [], {}),
            f"{SPEC}.ports[0].name": (*WORDS[2:], "Http", "a.b", "x" * 64),
            f"{SPEC}.ports[0].nodePort": [value for value in integer(1, 65535) if value != 0],
            f"{SPEC}.ports[1].nodePort": [value for value in integer(1, 65535) if value != 0],
            f"{SPEC}.externalIPs": "list",
            f"{SPEC}.externalIPs[0]": (*WORDS, "198.51.100", "169.254.0.1", "fe80::1", "127.0.0.1"),
            f"{SPEC}.externalTrafficPolicy": ("local", "x", 7, True, [], {}),
            f"{SPEC}.internalTrafficPolicy": ("local", "x", 7, True, [], {}),
            f"{SPEC}.healthCheckNodePort": [*(value for value in integer(1, 65535) if value != 0), 30080],
            f"{SPEC}.sessionAffinity": ("clientIP", "x", 7, True, [], {}),
            f"{SPEC}.sessionAffinityConfig": "section",
            f"{SPEC}.sessionAffinityConfig.clientIP": "section",
            f"{SPEC}.sessionAffinityConfig.clientIP.timeoutSeconds": integer(1, 86400),
            f"{SPEC}.loadBalancerSourceRanges": "list",
            f"{SPEC}.loadBalancerSourceRanges[0]": (*WORDS, "192.0.2.0", "192.0.2.1/24", "::ffff:0:0/96"),
            "services[0].status": "section",
            "services[0].status.loadBalancer": "section",
            "services[0].status.loadBalancer.ingress": "list",
            "services[0].status.loadBalancer.ingress[0]": "section",
            "services[0].status.loadBalancer.ingress[0].ip": (*WORDS[1:], "127.0.0.1", "224.0.0.1"),
            "services[0].status.loadBalancer.ingress[0].ipMode": ("vip", 7, True, [], {}),
            SLICE: "section",
            f"{SLICE}.addressType": (*WORDS, "ipv4", "IPv6"),
            f"{SLICE}.metadata.name": (*WORDS, "A", "a b"),
            f"{SLICE}.ports": (7, True, "x", {}),
            f"{SLICE}.ports[0]": "section",
            f"{SLICE}.ports[0].name": ("dns", "Http", "a.b", 7, True, [], {}),
            f"{SLICE}.ports[0].port": [value for value in integer(1, 65535) if value != 0],
            f"{SLICE}.ports[0].protocol": ("tcp", 7, True, [], {}),
            f"{SLICE}.endpoints": "list",
            f"{SLICE}.endpoints[0]": "section",
            f"{SLICE}.endpoints[0].addresses": ("10.244.1.5", [], 7, True, {}),
            f"{SLICE}.endpoints[0].addresses[0]": (*WORDS, "10.244.1", "fd00::1", "127.0.0.1", "169.254.0.1"),
            f"{SLICE}.endpoints[0].nodeName": ("N1", "a b", 7, True, [], {}),
            f"{SLICE}.endpoints[0].conditions": "section",
            **{f"{SLICE}.endpoints[0].conditions.{name}": "boolean" for name in ("ready", "serving", "terminating")},
            f"{SLICE}.endpoints[0].hints": "section",
            f"{SLICE}.endpoints[0].hints.forZones": "list",
            f"{SLICE}.endpoints[0].hints.forZones[0]": "section",
            f"{SLICE}.endpoints[0].hints.forZones[0].name": "text",
            f"{SLICE}.endpoints[1].hints.forNodes[0].name": ("N1", 7, True, [], {}),
        },
        required=[f"{SPEC}.ports", f"{SLICE}.addressType", f"{SLICE}.endpoints[0].addresses", "services[0].metadata"],
    )
)
# Where a value is wrong only together with another one, the other one's path is as good.
RELATED = {
    f"{SPEC}.clusterIP": {f"{SPEC}.clusterIPs[0]"},
    f"{SPEC}.clusterIPs": {f"{SPEC}.clusterIP", f"{SPEC}.ipFamilies[0]"},
    f"{SPEC}.clusterIPs[0]": {f"{SPEC}.clusterIPs"},
    f"{SPEC}.ports[0].name": {f"{SPEC}.ports[1].name"},
    f"{SLICE}.ports[0].name": {f"{SLICE}.ports[1].name"},
    f"{SLICE}.addressType": {f"{SLICE}.endpoints[0].addresses[0]"},
}


def whole(document: Document) -> ServiceTable:
    return service_table(Section(document).entries("services"), parse_node(NODE))


def test_the_document_is_right() -> None:
    found = whole(DOCUMENT)
    assert (len(found.services), found.skipped) == (14, ())


@MANY
@given(corrupted(DOCUMENT, MISTAKES))
def test_a_mistake_is_named_by_its_path(drawn: tuple[Document, set[str]]) -> None:
    document, paths = drawn
    try:
        whole(document)
    except SpecError as error:
        expected = paths.union(*(RELATED.get(path, set()) for path in paths))
        assert error.path in expected
    else:
        # None was made, or it took the document out of what is read.
        assert not paths or document["services"] == [] or _no_longer_ours(document)


def _no_longer_ours(document: Document) -> bool:
    return any(
        not isinstance(each, dict) or each.get("apiVersion", "").rpartition("/")[0] not in ("", "discovery.k8s.io")
        for each in document["services"]
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _places(value: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in [(*steps, key), *_places(each, (*steps, key))]]


@MANY
@given(st.sampled_from(_places(DOCUMENT["services"])), JSON)
def test_nothing_but_mistakes_is_raised(place: tuple[Any, ...], value: Any) -> None:
    documents = copy.deepcopy(DOCUMENT["services"])
    target = documents
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    try:
        service_table(of_list(documents), parse_node(NODE))
    except SpecError as error:
        assert error.path.startswith("services[")


@given(st.lists(JSON, max_size=4))
def test_nothing_but_mistakes_is_raised_for_any_document(documents: list[Any]) -> None:
    try:
        read_manifests(of_list(documents))
    except SpecError as error:
        assert error.path.startswith("services[")


CONDITION = st.sampled_from((None, True, False))
ADDRESS = st.sampled_from(
    (
        "10.244.1.5",
        "10.244.01.5",
        "169.254.1.1",
        "::ffff:1.2.3.4",
        "FD00::A",
        "fe80::1",
        "0.0.0.0",
        "x",
        "",
        7,
        "1.2.3.4\0",
    )
)


@given(
    st.fixed_dictionaries(
        {"addresses": st.lists(ADDRESS, min_size=1, max_size=2)},
        optional={
            "nodeName": st.sampled_from(("n1", "", "N", None, 7)),
            "conditions": st.none()
            | st.fixed_dictionaries({}, optional={"ready": CONDITION, "serving": CONDITION, "terminating": CONDITION}),
            "hints": st.sampled_from((None, {}, {"forZones": [{"name": "a"}]})),
        },
    ),
    st.sampled_from((IPV4, IPV6)),
)
@example({"addresses": ["10.244.1.5"], "nodeName": "n1", "conditions": {"ready": False}}, IPV4)
def test_endpoints_taken_at_one_go_are_those_read_field_by_field(entry: Object, version: Any) -> None:
    fast = slices._usual(entry, version)
    if fast is not None:
        assert fast == slices._endpoint(Section(entry, "endpoint"), version)


HINTS = st.sampled_from(({}, {}, {"zones": ["zone-a"]}, {"zones": ["zone-b"]}, {"nodes": ["n1"]}, {"nodes": ["n2"]}))
FLAGS = st.fixed_dictionaries({name: st.booleans() for name in ("ready", "serving", "terminating")})
NODES = st.sampled_from(("", "n1", "n2"))


@st.composite
def clusters(draw: st.DrawFn) -> list[Object]:
    """Up to four services of any kind with up to two slices each."""
    documents: list[Object] = []
    for index in range(draw(st.integers(0, 4))):
        name, kind = f"s{index}", draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")))
        protocol = draw(st.sampled_from(("TCP", "UDP", "SCTP")))
        port = {"port": 80, "protocol": protocol} | ({"nodePort": 30000 + index} if kind != "ClusterIP" else {})
        six = draw(st.booleans())
        spec: Object = {
            "type": kind,
            "clusterIP": f"10.96.0.{index + 1}",
            "clusterIPs": [f"10.96.0.{index + 1}", *([f"fd00:96::{index + 1}"] if six else [])],
            "ports": [port],
            "internalTrafficPolicy": draw(st.sampled_from(("Cluster", "Local"))),
        }
        if kind != "ClusterIP":
            spec["externalTrafficPolicy"] = draw(st.sampled_from(("Cluster", "Local")))
        if draw(st.booleans()):
            spec["externalIPs"] = [f"198.51.100.{index + 1}", f"2001:db8:e::{index + 1}"]
        made = service(name, **spec)
        if kind == "LoadBalancer":
            made["status"] = {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{index + 101}"}]}}
        documents.append(made)
        for suffix in draw(st.sampled_from(("", "a", "ab"))):
            found = [
                endpoint(f"10.244.{index}.{number}", draw(NODES), draw(st.none() | FLAGS), **draw(HINTS))
                for number in draw(st.lists(st.integers(1, 4), max_size=4))
            ]
            ports = [{"port": 8080, "protocol": protocol}]
            documents.append(endpoint_slice(*found, of=name, suffix=suffix, ports=ports))
    return documents


@given(clusters(), st.randoms())
def test_the_order_of_documents_does_not_matter(documents: list[Object], random: Any) -> None:
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert table(*documents) == table(*shuffled)


@given(clusters())
def test_tables_are_consistent(documents: list[Object]) -> None:
    found = table(*documents)
    names = [each.service for each in found.services]
    assert len(set(names)) == len(names)
    assert len({each.key for each in found.servers}) == len(found.servers)
    assert {each.service for each in found.servers} <= set(names)
    assert len(set(found.addresses)) == len(found.addresses)
    own = {"192.0.2.2", "10.244.1.1", "2001:db8::2"}
    assert {service_parts(name).address for name in names} <= {*found.addresses, *own}
    assert own.isdisjoint(found.addresses)
    assert len(ipvsadm_lines(found.services, found.servers)) == len(found.services) + len(found.servers)
    in_set = {entry[0] for version in VERSIONS for entry in found.sets["virtual_address"][version]}
    assert in_set == set(found.addresses)


@given(clusters())
def test_every_service_with_an_endpoint_that_serves_reaches_one_from_outside(documents: list[Object]) -> None:
    """No policy leaves those clients without anybody while somebody is there."""
    found = table(*documents)
    served = {each.service for each in found.servers}
    for made in (each for each in documents if each["kind"] == "Service" and "status" in each):
        name = made["metadata"]["name"]
        conditions: dict[str, list[bool]] = {}
        for other in documents:
            if other["kind"] == "EndpointSlice" and other["metadata"]["name"].startswith(f"{name}-"):
                for each in other["endpoints"]:
                    ready = (each.get("conditions") or {"ready": True})["ready"]
                    conditions.setdefault(each["addresses"][0], []).append(ready)
        # Of one that is there twice the last one counts.
        if any(map(all, conditions.values())):
            protocol = made["spec"]["ports"][0]["protocol"].lower()
            address = made["status"]["loadBalancer"]["ingress"][0]["ip"]
            assert f"{protocol} {address}:80" in served
