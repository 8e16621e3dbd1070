# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared cluster and all that can be wrong with it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster import Report, check_cluster

OPTIONS = {
    "cluster_name": {"type": "str"},
    "cluster_node_address": {"type": "str"},
    "cluster_node_address6": {"type": "str"},
    "cluster_pod_cidr": {"type": "str"},
    "cluster_pod_cidr6": {"type": "str"},
    "cluster_service_cidr": {"type": "str"},
    "flannel_backend_type": {"type": "str", "choices": ["vxlan", "host-gw", "ipip", "wireguard"]},
    "flannel_direct_routing": {"type": "bool"},
    "flannel_etcd_prefix": {"type": "str"},
    "flannel_interface": {"type": "str"},
    "flannel_interface_can_reach": {"type": "str"},
    "flannel_interface_regex": {"type": "list"},
    "flannel_lease_ttl": {"type": "int"},
    "flannel_masquerade": {"type": "bool"},
    "flannel_mtu": {"type": "int"},
    "flannel_public_address": {"type": "str"},
    "flannel_public_address6": {"type": "str"},
    "flannel_subnet6_len": {"type": "int"},
    "flannel_subnet6_max": {"type": "str"},
    "flannel_subnet6_min": {"type": "str"},
    "flannel_subnet_len": {"type": "int"},
    "flannel_subnet_max": {"type": "str"},
    "flannel_subnet_min": {"type": "str"},
    "flannel_vxlan_gbp": {"type": "bool"},
    "flannel_vxlan_vni": {"type": "int"},
    "flannel_wireguard_keepalive": {"type": "int"},
    "flannel_wireguard_listen_port": {"type": "int"},
    "flannel_wireguard_listen_port6": {"type": "int"},
    "flannel_wireguard_mode": {"type": "str", "choices": ["separate", "auto", "ipv4", "ipv6"]},
    "flannel_wireguard_psk": {"type": "str"},
    "node_packages": {"type": "list"},
    "node_sysctls": {"type": "dict"},
}
ADDRESSES = {"cp1": "192.0.2.11", "cp2": "192.0.2.12", "cp3": "192.0.2.13", "w1": "192.0.2.14"}
NETWORKS = {"cluster_name": "lab", "cluster_pod_cidr": "10.244.0.0/16", "cluster_service_cidr": "10.96.0.0/12"}


def declaration(
    variables: dict[str, Any] | None = None,
    host_variables: dict[str, dict[str, Any]] | None = None,
    groups: dict[str, list[str]] | None = None,
    addresses: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A sound cluster of four nodes but for what is given. A variable of None is not declared."""
    addresses = ADDRESSES if addresses is None else addresses
    everywhere = {**NETWORKS, **(variables or {})}
    settings = [{"name": name, "value": value} for name, value in everywhere.items() if value is not None]
    for host, declared in {name: {"ansible_host": address} for name, address in addresses.items()}.items():
        for name, value in {**declared, **(host_variables or {}).get(host, {})}.items():
            settings.append({"name": name, "value": value, "hosts": [host]})
    names = list(addresses)
    roles = {"etcd": names[:3], "control_plane": names[:3], "worker": names[3:], "nodes": names}
    return {
        "groups": {"all": names, **roles, **(groups or {})},
        "settings": settings,
        "options": OPTIONS,
        "prefixes": ["cluster_", "flannel_", "node_"],
    }


def errors(report: Report) -> list[str]:
    return [str(problem) for problem in report.errors]


def warnings(report: Report) -> list[str]:
    return [str(problem) for problem in report.warnings]


def test_sound_cluster_has_no_problem() -> None:
    report = check_cluster(declaration())
    assert (errors(report), warnings(report)) == ([], [])
    assert (report.topology, report.subnets) == ("stacked", 255)


@pytest.mark.parametrize(
    ("groups", "topology"),
    [
        ({"etcd": ["cp1", "cp2", "cp3"]}, "stacked"),
        ({"etcd": ["cp1"]}, "stacked"),
        ({"etcd": ["w1"], "nodes": ["cp1", "cp2", "cp3"], "worker": []}, "external"),
        ({"etcd": ["cp1", "cp2", "w1"]}, "mixed"),
        ({"etcd": ["cp1"], "nodes": ["cp1"], "control_plane": ["cp1"], "worker": []}, "single"),
    ],
)
def test_topology_comes_from_groups_alone(groups: dict[str, list[str]], topology: str) -> None:
    report = check_cluster(declaration(groups=groups))
    assert errors(report) == []
    assert report.topology == topology


@pytest.mark.parametrize(("count", "odd"), [(1, True), (2, False), (3, True), (4, False)])
def test_even_number_of_members_is_a_warning_only(count: int, odd: bool) -> None:
    report = check_cluster(declaration(groups={"etcd": list(ADDRESSES)[:count]}))
    assert errors(report) == []
    expected = f"groups.etcd: {count} members survive no more failures than {count - 1}; use an odd number"
    assert warnings(report) == ([] if odd else [expected])


def test_more_than_seven_members_are_a_warning() -> None:
    many = {f"n{number}": f"192.0.2.{number}" for number in range(1, 10)}
    report = check_cluster(declaration(addresses=many, groups={"etcd": list(many), "control_plane": list(many)}))
    assert warnings(report) == ["groups.etcd: 9 members make every write slow; use 7 at the most"]


def test_host_in_no_group_is_a_warning_and_needs_no_address() -> None:
    report = check_cluster(declaration(groups={"all": [*ADDRESSES, "printer"]}))
    assert errors(report) == []
    assert "groups: printer: in none of the groups" in warnings(report)[0]


@pytest.mark.parametrize("group", ["etcd", "control_plane", "nodes"])
def test_empty_group_is_an_error(group: str) -> None:
    assert f"groups.{group}: has no host; put at least one into group {group}" in errors(
        check_cluster(declaration(groups={group: []}))
    )


def test_names_that_differ_in_case_only() -> None:
    both = check_cluster(declaration(addresses={"cp1": "192.0.2.1", "CP1": "192.0.2.2"}))
    assert any("differs from hosts.cp1 in upper and lower case only" in line for line in errors(both))


def test_cluster_node_address_wins_over_ansible_host() -> None:
    declared = declaration(
        host_variables={"w1": {"ansible_host": "w1.example.com", "cluster_node_address": "192.0.2.99"}}
    )
    assert errors(check_cluster(declared)) == []


def test_name_that_is_an_address_needs_no_other() -> None:
    declared = declaration(addresses={"192.0.2.7": ""}, groups={"worker": [], "etcd": ["192.0.2.7"]})
    assert errors(check_cluster(declared)) == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "240.0.0.1", "255.255.255.255", "2001:db8::1"]
)
def test_address_that_cannot_be_a_nodes(address: str) -> None:
    report = check_cluster(declaration(host_variables={"w1": {"ansible_host": address}}))
    assert [line for line in errors(report) if line.startswith(f"hosts.w1.ansible_host: {address} is ")]


@pytest.mark.parametrize("block", ["127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/16", "0.0.0.0/1", "255.0.0.0/16"])
def test_network_in_a_reserved_block(block: str) -> None:
    assert any(
        "which no pod or service can use" in line
        for line in errors(check_cluster(declaration({"cluster_pod_cidr": block})))
    )


# Any network inside 10.0.0.0/12: two of them share an address often enough.
NEIGHBORS = st.tuples(st.integers(0, 2**20 - 1), st.integers(12, 22)).map(
    lambda pair: ipaddress.ip_network((10 * 2**24 + pair[0], pair[1]), strict=False)
)


@given(NEIGHBORS, NEIGHBORS)
def test_networks_that_share_an_address_are_refused_and_others_are_not(pods: Any, services: Any) -> None:
    report = check_cluster(declaration({"cluster_pod_cidr": str(pods), "cluster_service_cidr": str(services)}))
    low, high = max(pods[0], services[0]), min(pods[-1], services[-1])
    assert any("overlaps cluster_pod_cidr" in line for line in errors(report)) == (low <= high)


@given(st.integers(14, 28), st.integers(1, 80), st.data())
def test_as_many_nodes_as_there_are_subnets_and_not_one_more(prefix: int, count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(prefix + 2, 30))
    network = ipaddress.ip_network(f"10.244.0.0/{prefix}")
    usable = sum(1 for _subnet in network.subnets(new_prefix=length)) - 1 if length - prefix < 9 else 2**9
    nodes = {f"n{number}": f"192.0.2.{number}" for number in range(1, count + 1)}
    report = check_cluster(
        declaration({"cluster_pod_cidr": str(network), "flannel_subnet_len": length}, addresses=nodes)
    )
    assert any("need one each" in line for line in errors(report)) == (count > usable)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"cluster_pod_cidr": "10.244.0.0/29"}, "cluster_pod_cidr: must be /28 or shorter, not /29"),
        ({"cluster_pod_cidr": "fd00::/48"}, "cluster_pod_cidr: must be an IPv4 network, not fd00::/48"),
        ({"flannel_subnet_len": 17}, "flannel_subnet_len: must be 18 to 30, not 17"),
        ({"flannel_subnet_len": 31}, "flannel_subnet_len: must be 18 to 30, not 31"),
        (
            {"flannel_subnet_min": "10.244.9.0", "flannel_subnet_max": "10.244.8.0"},
            "flannel_subnet_max: 10.244.8.0 is below subnet_min 10.244.9.0",
        ),
        ({"flannel_etcd_prefix": "network/"}, "flannel_etcd_prefix: must begin with '/' and not end with it"),
        ({"flannel_lease_ttl": 60}, "flannel_lease_ttl: must be 0 or 14400 to 2147483648, not 60"),
        ({"flannel_mtu": 500}, "flannel_mtu: must be 0 or 576 to 65535, not 500"),
        ({"flannel_wireguard_listen_port6": 0}, "flannel_wireguard_listen_port6: must be 1 to 65535, not 0"),
        ({"flannel_wireguard_keepalive": -1}, "flannel_wireguard_keepalive: must be 0 to 65535, not -1"),
        ({"flannel_vxlan_vni": 0}, "flannel_vxlan_vni: must be 1 to 9999999, not 0"),
        ({"flannel_masquerade": 2}, "flannel_masquerade: must be true or false, not 2 (int)"),
        ({"node_packages": {"a": 1}}, "node_packages: must be a list, not {'a': 1} (dict)"),
        ({"node_sysctls": ["a"]}, "node_sysctls: must be a mapping, not ['a'] (list)"),
        ({"cluster_name": "Lab"}, "cluster_name: must be a lower-case RFC 1123 name"),
        ({"cluster_pod_cidr": None}, "cluster_pod_cidr: is not set; set it in group_vars/all"),
        ({"cluster_pod_cdir": "10.0.0.0/8"}, "cluster_pod_cdir: is not a variable of any role"),
    ],
)
def test_wrong_variable_is_one_error(variables: dict[str, Any], problem: str) -> None:
    found = [line for line in errors(check_cluster(declaration(variables))) if not line.endswith("one each")]
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    "variables",
    [
        {"flannel_mtu": 0},
        {"flannel_mtu": "1450"},
        {"flannel_masquerade": "no"},
        {"flannel_subnet_len": "25"},
        {"flannel_subnet_min": "", "flannel_subnet_max": "10.244.200.0"},
        {"flannel_lease_ttl": 0},
        {"node_packages": "a,b"},
        {"cluster_service_cidr": None},
    ],
)
def test_value_that_ansible_would_accept_is_accepted(variables: dict[str, Any]) -> None:
    assert errors(check_cluster(declaration(variables))) == []


def test_foreign_variable_with_our_prefix_is_a_warning() -> None:
    report = check_cluster(declaration({"node_exporter_listen_address": "x"}))
    assert errors(report) == []
    assert "node_exporter_listen_address: is not a variable of any role, so nothing will read it" in warnings(report)[0]


def test_value_set_on_some_nodes_only_is_an_error() -> None:
    report = check_cluster(declaration(host_variables={"w1": {"flannel_vxlan_vni": 9}}))
    assert errors(report) == [
        "flannel_vxlan_vni: must be the same on all nodes, and is 9 on w1; not set on cp1, cp2, cp3. "
        "Set it once, in group_vars/all"
    ]


def test_hosts_outside_the_overlay_need_not_agree() -> None:
    groups = {"etcd": ["w1"], "nodes": ["cp1", "cp2", "cp3"], "worker": []}
    assert errors(check_cluster(declaration(host_variables={"w1": {"flannel_vxlan_vni": 9}}, groups=groups))) == []


def test_value_that_is_not_known_yet() -> None:
    declared = declaration()
    declared["settings"].append({"name": "flannel_mtu", "unresolved": "no facts yet"})
    assert errors(check_cluster(declared)) == []
    declared["settings"] = [entry for entry in declared["settings"] if entry["name"] != "cluster_pod_cidr"]
    declared["settings"].append({"name": "cluster_pod_cidr", "unresolved": "no facts yet"})
    assert errors(check_cluster(declared)) == [
        "cluster_pod_cidr: cannot be computed before a node is asked (no facts yet)"
    ]


def test_place_stands_behind_the_item() -> None:
    declared = declaration()
    declared["settings"].append({"name": "flannel_mtu", "value": 1, "where": "group_vars/all.yml:7"})
    assert errors(check_cluster(declared)) == ["flannel_mtu (group_vars/all.yml:7): must be 0 or 576 to 65535, not 1"]


@pytest.mark.parametrize(
    ("variables", "host_variables", "message"),
    [
        (
            {"flannel_backend_type": "host-gw", "flannel_direct_routing": True},
            {},
            "flannel_direct_routing: is not possible with flannel_backend_type host-gw",
        ),
        (
            {"flannel_backend_type": "host-gw"},
            {"w1": {"flannel_public_address": "203.0.113.4"}},
            "hosts.w1.flannel_public_address: is not possible with flannel_backend_type host-gw",
        ),
        (
            {"flannel_backend_type": "wireguard", "flannel_direct_routing": True},
            {},
            "flannel_direct_routing: is not possible with flannel_backend_type wireguard",
        ),
        (
            {"flannel_backend_type": "wireguard"},
            {"w1": {"flannel_wireguard_listen_port": 5}},
            "flannel_wireguard_listen_port: must be the same on all nodes",
        ),
        (
            {"flannel_backend_type": "wireguard"},
            {"w1": {"flannel_wireguard_keepalive": 25}},
            "flannel_wireguard_keepalive: must be the same on all nodes",
        ),
        (
            {},
            {"w1": {"flannel_public_address": "w1.example.com"}},
            "hosts.w1.flannel_public_address: must be an IP address, not 'w1.example.com'",
        ),
        ({"flannel_interface_regex": ["eth0", "eth["]}, {}, "flannel_interface_regex[1]: must be a regular expression"),
        ({"flannel_interface": "much-too-long-a-name"}, {}, "flannel_interface: must be an interface name"),
        ({"flannel_interface_can_reach": "gateway"}, {}, "flannel_interface_can_reach: must be an IP address"),
        ({}, {"w1": {"flannel_direct_routing": True}}, "flannel_direct_routing: must be the same on all nodes"),
        (
            {"flannel_backend_type": "udp"},
            {},
            "flannel_backend_type: must be one of vxlan, host-gw, ipip, wireguard, not 'udp'",
        ),
    ],
    ids=str,
)
def test_backend_and_underlay_that_cannot_be_are_errors(
    variables: dict[str, Any], host_variables: dict[str, dict[str, Any]], message: str
) -> None:
    found = errors(check_cluster(declaration(variables, host_variables)))
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize(
    "variables",
    [
        {"flannel_backend_type": "host-gw", "flannel_direct_routing": False, "flannel_public_address": ""},
        {"flannel_backend_type": "ipip", "flannel_direct_routing": "yes"},
        {"flannel_interface": "192.0.2.1", "flannel_interface_regex": "^eth,^ens", "flannel_interface_can_reach": ""},
        {"flannel_vxlan_gbp": True, "flannel_direct_routing": True},
    ],
    ids=str,
)
def test_backends_and_underlays_that_can_be_are_no_problem(variables: dict[str, Any]) -> None:
    report = check_cluster(declaration(variables))
    assert (errors(report), warnings(report)) == ([], [])


def test_option_of_another_backend_is_a_warning() -> None:
    report = check_cluster(declaration({"flannel_backend_type": "ipip", "flannel_vxlan_vni": 7}))
    assert errors(report) == []
    assert warnings(report) == [
        "flannel_vxlan_vni: is of backend vxlan, and flannel_backend_type is ipip; nothing will read it"
    ]
