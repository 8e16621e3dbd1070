# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which virtual services and addresses a node gets, and which endpoints are behind them: the rules of kube-proxy 1.36,
each in its smallest form. Real kube-proxy's own answers are in test_service_oracle."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import RealServer, VirtualService
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.documents import Skipped
from tests.manifests import (
    DRAINING,
    GONE,
    READY,
    UNREADY,
    Object,
    balanced,
    endpoint,
    endpoint_slice,
    node_port,
    servers,
    service,
    table,
)

LOCAL = {"externalTrafficPolicy": "Local"}
HERE, THERE = endpoint("10.244.1.5", "n1"), endpoint("10.244.2.5", "n2")
HERE_NAME, THERE_NAME = "10.244.1.5:8080", "10.244.2.5:8080"
NODE_PORT = "tcp 192.0.2.2:30080"


def with_conditions(*conditions: Object | None) -> Object:
    """A slice of endpoints .1, .2 and so on, on this node and another one in turn."""
    made = [endpoint(f"10.244.1.{number}", ("n2", "n1")[number % 2], each) for number, each in enumerate(conditions, 1)]
    return endpoint_slice(*made)


def numbers(*last: int) -> list[str]:
    return [f"10.244.1.{number}:8080" for number in last]


def test_cluster_ip() -> None:
    found = table(service(), endpoint_slice(HERE, THERE))
    assert found.services == (VirtualService("tcp 10.96.0.10:80", "rr"),)
    assert found.servers == tuple(RealServer("tcp 10.96.0.10:80", name) for name in (HERE_NAME, THERE_NAME))
    assert (found.servers[0].forwarding, found.servers[0].weight) == ("masquerade", 1)
    assert (found.addresses, found.health_checks, found.skipped) == (("10.96.0.10",), (), ())


def test_a_service_without_endpoints_is_there() -> None:
    found = table(service())
    assert (servers(found), found.addresses) == ([], ("10.96.0.10",))


@pytest.mark.parametrize(("protocol", "word"), [("TCP", "tcp"), ("UDP", "udp"), ("SCTP", "sctp")])
def test_protocols(protocol: str, word: str) -> None:
    port = {"port": 80, "protocol": protocol}
    found = table(service(ports=[port]), endpoint_slice(HERE, ports=[{**port, "port": 8080}]))
    assert servers(found, f"{word} 10.96.0.10:80") == [HERE_NAME]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ((READY, UNREADY, None), (1, 3)),
        ((READY, DRAINING), (1,)),
        ((UNREADY, DRAINING, DRAINING), (2, 3)),
        ((UNREADY, UNREADY), ()),
        ((GONE, DRAINING), (2,)),
        # Ready is what counts, whoever said so: a service may publish what terminates.
        (({"ready": True, "serving": False, "terminating": True}, DRAINING), (1,)),
        # Unknown is yes for ready and serving, no for terminating.
        (({"ready": False, "terminating": True}, UNREADY), (1,)),
        (({"ready": False}, UNREADY), ()),
        (({"serving": False, "terminating": True}, DRAINING), (1,)),
    ],
)
def test_conditions(conditions: Any, expected: Any) -> None:
    assert servers(table(service(), with_conditions(*conditions))) == numbers(*expected)


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        # One that terminates does not take the place of another one, and gives up its own.
        ([(1, READY), (1, DRAINING)], [1]),
        ([(1, DRAINING), (1, READY)], [1]),
        ([(1, DRAINING), (1, UNREADY)], []),
        ([(1, READY), (2, READY)], [1, 2]),
    ],
)
def test_an_endpoint_in_two_slices_is_one(slices: Any, expected: Any) -> None:
    made = [
        endpoint_slice(endpoint(f"10.244.1.{number}", "n1", each), suffix=suffix)
        for suffix, (number, each) in zip("ab", slices, strict=True)
    ]
    assert servers(table(service(), *made)) == servers(table(service(), *reversed(made))) == numbers(*expected)


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    made = endpoint_slice({"addresses": ["10.244.1.5", "10.244.1.6"]})
    assert servers(table(service(), made)) == [HERE_NAME]


def test_ports_belong_together_by_name_and_protocol() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53},
        {"name": "metrics", "port": 9153},
    ]
    ends = [{**port, "port": port["port"] + 10000} for port in ports]
    found = table(service(ports=ports), endpoint_slice(HERE, ports=ends))
    assert {each.service: each.address for each in found.servers} == {
        "udp 10.96.0.10:53": "10.244.1.5:10053",
        "tcp 10.96.0.10:53": "10.244.1.5:10053",
        "tcp 10.96.0.10:9153": "10.244.1.5:19153",
    }


def test_slices_may_have_another_number_for_a_port() -> None:
    other = endpoint_slice(THERE, suffix="b", ports=[{"port": 9090}])
    assert servers(table(service(), endpoint_slice(HERE), other)) == [HERE_NAME, "10.244.2.5:9090"]


def test_slices_belong_to_services_of_their_namespace() -> None:
    foreign = endpoint_slice(THERE)
    foreign["metadata"]["namespace"] = "other"
    assert servers(table(service(), endpoint_slice(HERE), foreign)) == [HERE_NAME]


NEAR, FAR = ["zone-a"], ["zone-b"]


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        ([{"zones": NEAR}, {"zones": FAR}], (1,)),
        ([{"zones": FAR}, {"zones": [*FAR, *NEAR]}], (2,)),
        # Nothing for this zone, or nothing at all for one of them: all.
        ([{"zones": FAR}, {"zones": ["zone-c"]}], (1, 2)),
        ([{"zones": NEAR}, {}], (1, 2)),
        ([{"nodes": ["n1"]}, {"nodes": ["n2"]}], (1,)),
        ([{"nodes": ["n3"]}, {"nodes": ["n2"]}], (1, 2)),
        # The node before the zone, the zone where no endpoint is for the node.
        ([{"nodes": ["n1"], "zones": FAR}, {"nodes": ["n2"], "zones": NEAR}], (1,)),
        ([{"nodes": ["n3"], "zones": FAR}, {"nodes": ["n2"], "zones": NEAR}], (2,)),
        ([{"nodes": ["n1"], "zones": FAR}, {"zones": NEAR}], (2,)),
    ],
)
def test_hints(hints: Any, expected: Any) -> None:
    made = [endpoint(f"10.244.1.{number}", **each) for number, each in enumerate(hints, 1)]
    assert servers(table(service(), endpoint_slice(*made))) == numbers(*expected)


def test_only_ready_endpoints_need_hints() -> None:
    made = [
        endpoint("10.244.1.1", zones=NEAR),
        endpoint("10.244.1.2", zones=FAR),
        endpoint("10.244.1.3", "n1", UNREADY),
    ]
    assert servers(table(service(), endpoint_slice(*made))) == numbers(1)


def test_hints_say_nothing_about_endpoints_that_terminate() -> None:
    made = [endpoint("10.244.1.1", "", DRAINING, zones=NEAR), endpoint("10.244.1.2", "", DRAINING, zones=FAR)]
    assert servers(table(service(), endpoint_slice(*made))) == numbers(1, 2)


def test_without_a_zone_hints_for_zones_are_of_no_use() -> None:
    made = endpoint_slice(endpoint("10.244.1.1", zones=NEAR), endpoint("10.244.1.2", zones=FAR))
    assert servers(table(service(), made, zone="")) == numbers(1, 2)


def test_policy_for_traffic_from_outside_does_not_concern_the_cluster_ip() -> None:
    found = table(node_port(**LOCAL), endpoint_slice(HERE, THERE))
    assert servers(found) == [HERE_NAME, THERE_NAME]
    assert servers(found, NODE_PORT) == [HERE_NAME]


def test_policy_for_traffic_from_inside_concerns_the_cluster_ip_only() -> None:
    found = table(node_port(internalTrafficPolicy="Local"), endpoint_slice(HERE, THERE))
    assert servers(found) == [HERE_NAME]
    assert servers(found, NODE_PORT) == [HERE_NAME, THERE_NAME]


def test_without_an_endpoint_here_traffic_that_should_stay_goes_elsewhere() -> None:
    """The sets of local services see to it that its source is kept, so that only clients on this node get answers."""
    found = table(node_port(internalTrafficPolicy="Local", **LOCAL), endpoint_slice(THERE))
    assert servers(found) == servers(found, NODE_PORT) == [THERE_NAME]


def test_nothing_is_behind_a_cluster_ip_whose_traffic_must_stay_when_nobody_comes_from_outside() -> None:
    assert servers(table(service(internalTrafficPolicy="Local"), endpoint_slice(THERE))) == []
    assert servers(table(service(internalTrafficPolicy="Local"), endpoint_slice(HERE, THERE))) == [HERE_NAME]


def test_an_endpoint_here_that_terminates_is_taken_before_one_elsewhere() -> None:
    here = endpoint("10.244.1.5", "n1", DRAINING)
    found = table(node_port(**LOCAL), endpoint_slice(here, THERE))
    assert (servers(found, NODE_PORT), servers(found)) == ([HERE_NAME], [THERE_NAME])


def test_hints_do_not_concern_traffic_that_stays() -> None:
    here, there = endpoint("10.244.1.5", "n1", zones=FAR), endpoint("10.244.2.5", "n2", zones=NEAR)
    found = table(node_port(**LOCAL), endpoint_slice(here, there))
    assert (servers(found, NODE_PORT), servers(found)) == ([HERE_NAME], [THERE_NAME])


def test_an_endpoint_without_a_node_is_not_here() -> None:
    assert servers(
        table(node_port(**LOCAL), endpoint_slice(endpoint("10.244.1.5"), HERE | {"addresses": ["10.244.1.6"]})),
        NODE_PORT,
    ) == ["10.244.1.6:8080"]


@pytest.mark.parametrize(("seconds", "bits", "address"), [(10800, 32, "10.96.0.10"), (86400, 128, "fd00:96::a")])
def test_affinity_is_persistence(seconds: int, bits: int, address: str) -> None:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    (found,) = table(service(clusterIP=address, sessionAffinity="ClientIP", sessionAffinityConfig=config)).services
    assert (found.persistence, found.netmask, found.flags) == (seconds, bits, 0)


@pytest.mark.parametrize(("scheduler", "flags"), [("rr", 0), ("wlc", 0), ("sh", 0), ("mh", 0x10)])
def test_schedulers(scheduler: str, flags: int) -> None:
    (found,) = table(service(), scheduler=scheduler).services
    assert (found.scheduler, found.flags) == (scheduler, flags)


def test_external_addresses() -> None:
    found = table(service(externalIPs=["198.51.100.1", "2001:db8:e::1"]), endpoint_slice(HERE))
    assert servers(found, "tcp 198.51.100.1:80") == [HERE_NAME]
    # The service has no IPv6 address, so none of this version is its.
    assert found.addresses == ("10.96.0.10", "198.51.100.1")


def test_load_balancer_addresses() -> None:
    found = table(balanced("198.51.100.1", "198.51.100.2"), endpoint_slice(HERE))
    assert servers(found, "tcp 198.51.100.1:80") == servers(found, "tcp 198.51.100.2:80") == [HERE_NAME]
    assert found.addresses == ("10.96.0.10", "198.51.100.1", "198.51.100.2")


@pytest.mark.parametrize("own", [service(externalIPs=["192.0.2.2"]), balanced("192.0.2.2")])
def test_an_address_of_the_node_is_not_on_the_dummy_too(own: Object) -> None:
    found = table(own, endpoint_slice(HERE))
    assert servers(found, "tcp 192.0.2.2:80") == [HERE_NAME]
    assert found.addresses == ("10.96.0.10",)


@pytest.mark.parametrize("spec", [{"externalIPs": ["192.0.2.3", "2001:db8::3"]}, {}])
def test_an_address_of_another_node_is_not_on_the_dummy(spec: Object) -> None:
    """With it, this node could reach nothing else of that node."""
    made = service(**spec) if spec else balanced("192.0.2.3")
    found = table(made, endpoint_slice(THERE), members=["192.0.2.2", "192.0.2.3", "2001:db8::3"])
    assert found.addresses == ("10.96.0.10",)
    assert servers(found, "tcp 192.0.2.3:80") == [THERE_NAME]


def test_the_address_of_a_node_is_no_cluster_ip() -> None:
    both = service(clusterIPs=["10.96.0.10", "2001:db8::3"])
    expected = r"^services\[0\]\.spec\.clusterIPs\[1\]: 2001:db8::3 is the address of a node \(of Service default/web\)"
    with pytest.raises(SpecError, match=expected):
        table(both, members=["192.0.2.2", "2001:db8::3"])
    with pytest.raises(SpecError, match=r"^services\[0\]\.spec\.clusterIP: 192\.0\.2\.2 is the address of a node"):
        table(service(clusterIP="192.0.2.2"), members=["192.0.2.2"])


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (node_port(22), "services[0].spec.ports[0].nodePort: must be a node port of 30000 to 32767, not 22"),
        (node_port(32768), "services[0].spec.ports[0].nodePort: must be a node port of 30000 to 32767, not 32768"),
        (
            balanced("198.51.100.1", externalTrafficPolicy="Local", healthCheckNodePort=2379),
            "services[0].spec.healthCheckNodePort: must be a node port of 30000 to 32767, not 2379",
        ),
    ],
)
def test_services_take_ports_of_nodes_from_their_range_only(made: Object, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        table(made)
    assert str(caught.value) == f"{path} (of Service default/web)"
    assert table(made, node_ports="1-65535").services


def test_a_half_that_the_node_does_not_serve_is_told() -> None:
    both = service(clusterIPs=["10.96.0.10", "fd00:96::a"])
    only6 = service("six", clusterIP="fd00:96::b")
    found = table(both, only6, families=["ipv4"])
    assert [each.service for each in found.services] == ["tcp 10.96.0.10:80"]
    assert [(each.object, each.reason.partition(":")[0]) for each in found.skipped] == [
        ("Service default/six", "its IPv6 half"),
        ("Service default/web", "its IPv6 half"),
    ]


def test_the_same_address_twice_is_one_virtual_service() -> None:
    found = table(balanced("198.51.100.1", externalIPs=["198.51.100.1", "198.51.100.1"]), endpoint_slice(HERE))
    assert len(found.services) == 2
    assert servers(found, "tcp 198.51.100.1:80") == [HERE_NAME]


def test_where_an_external_address_is_the_cluster_ip_the_policy_for_outside_wins() -> None:
    found = table(service(externalIPs=["10.96.0.10"], **LOCAL), endpoint_slice(HERE, THERE))
    assert servers(found) == [HERE_NAME]


def test_node_ports_are_at_all_addresses_that_others_can_reach() -> None:
    both = {"clusterIPs": ["10.96.0.10", "fd00:96::a"]}
    slices = [endpoint_slice(HERE), endpoint_slice(endpoint("fd00:244::5", "n1"), suffix="b", addressType="IPv6")]
    found = table(node_port(**both), *slices)
    names = {each.service for each in found.services if each.service.endswith(":30080")}
    assert names == {"tcp 192.0.2.2:30080", "tcp 10.244.1.1:30080", "tcp [2001:db8::2]:30080"}
    assert servers(found, "tcp [2001:db8::2]:30080") == ["[fd00:244::5]:8080"]
    assert found.addresses == ("10.96.0.10", "fd00:96::a")


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (["192.0.2.0/24"], {"192.0.2.2", "[2001:db8::2]"}),
        (["192.0.2.0/24", "2001:db8::/32"], {"192.0.2.2", "[2001:db8::2]"}),
        (["192.0.2.0/24", "2001:db9::/32"], {"192.0.2.2"}),
        (["127.0.0.0/8", "::1/128"], set()),
        (["0.0.0.0/0", "192.0.2.0/24"], {"192.0.2.2", "10.244.1.1", "[2001:db8::2]"}),
        (["198.51.100.0/24", "fe80::/10"], {"[fe80::2]"}),
        (["primary"], {"192.0.2.2", "[2001:db8::2]"}),
    ],
)
def test_node_ports_at_chosen_addresses(networks: list[str], expected: set[str]) -> None:
    found = table(node_port(clusterIPs=["10.96.0.10", "fd00:96::a"]), node_port_addresses=networks)
    names = {each.service for each in found.services if each.service.endswith(":30080")}
    assert names == {f"tcp {address}:30080" for address in expected}


def test_a_load_balancer_needs_no_node_port() -> None:
    bare = balanced("198.51.100.1", allocateLoadBalancerNodePorts=False)
    ports = balanced("198.51.100.1", ports=[{"port": 80, "nodePort": 30080}])
    assert len(table(bare).services) == 2
    assert NODE_PORT in {each.service for each in table(ports).services}


def test_dual_stack_services_have_slices_of_both_versions() -> None:
    both = service(clusterIPs=["10.96.0.10", "fd00:96::a"])
    six = endpoint_slice(endpoint("fd00:244::5"), suffix="b", addressType="IPv6")
    found = table(both, endpoint_slice(HERE), six)
    assert servers(found) == [HERE_NAME]
    assert servers(found, "tcp [fd00:96::a]:80") == ["[fd00:244::5]:8080"]


def test_families_that_the_node_does_not_serve() -> None:
    both = service(clusterIPs=["10.96.0.10", "fd00:96::a"])
    found = table(both, endpoint_slice(HERE), families=["ipv6"])
    assert [each.service for each in found.services] == ["tcp [fd00:96::a]:80"]
    assert (found.addresses, found.servers) == (("fd00:96::a",), ())
    assert found.sets["cluster_ip"][IPV4] == ()


def test_health_checks_count_ready_endpoints_here_once() -> None:
    own = balanced("198.51.100.1", healthCheckNodePort=30090, **LOCAL)
    own["spec"]["ports"] = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    ports = [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]
    here = [endpoint("10.244.1.5", "n1"), endpoint("10.244.1.6", "n1", DRAINING), THERE]
    found = table(own, endpoint_slice(*here, ports=ports))
    assert found.health_checks == (("default/web", IPV4, 30090, 1),)
    assert table(own).health_checks == (("default/web", IPV4, 30090, 0),)


def test_health_checks_are_for_each_version() -> None:
    both = {"clusterIPs": ["10.96.0.10", "fd00:96::a"], "healthCheckNodePort": 30090}
    found = table(balanced(**both, **LOCAL), endpoint_slice(HERE))
    assert found.health_checks == (("default/web", IPV4, 30090, 1), ("default/web", IPV6, 30090, 0))


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (service("a", externalIPs=["198.51.100.1"]), service("b", externalIPs=["198.51.100.1"]), "198.51.100.1:80"),
        (service("a", externalIPs=["192.0.2.2"], ports=[{"port": 30080}]), node_port(30080), "192.0.2.2:30080"),
    ],
)
def test_two_services_at_one_address_and_port_are_refused(first: Object, second: Object, name: str) -> None:
    second["spec"]["clusterIP"] = "10.96.0.11"
    with pytest.raises(SpecError) as caught:
        table(first, second)
    expected = f"services[1].spec.ports[0]: tcp {name} is also what services[0].spec.ports[0] is reached by on node n1"
    assert str(caught.value).startswith(expected)


def test_what_is_skipped_is_passed_on() -> None:
    assert table(service(clusterIP="None")).skipped == (
        Skipped("Service default/web", "headless: clients find its endpoints by DNS"),
    )
