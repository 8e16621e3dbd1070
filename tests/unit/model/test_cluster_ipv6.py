# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared cluster with two address families, and what can be wrong with the second."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cluster import check_cluster
from tests.unit.model.test_cluster import ADDRESSES, declaration, errors, warnings

PODS6 = "fd00:10:244::/56"
ADDRESSES6 = {name: f"2001:db8:2::{last}" for last, name in enumerate(ADDRESSES, 11)}


def dual(
    variables: dict[str, Any] | None = None, addresses6: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """A sound dual-stack cluster but for what is given."""
    given = {**ADDRESSES6, **(addresses6 or {})}
    host_variables = {name: {"cluster_node_address6": address} for name, address in given.items()}
    return declaration({"cluster_pod_cidr6": PODS6, **(variables or {})}, host_variables, **options)


def test_sound_cluster_has_no_problem() -> None:
    report = check_cluster(dual())
    assert (errors(report), warnings(report)) == ([], [])
    assert report.subnets == 255


def test_family_with_fewer_subnets_is_told() -> None:
    assert check_cluster(dual({"cluster_pod_cidr6": "fd00::/61"})).subnets == 7
    assert check_cluster(dual({"cluster_pod_cidr6": "fd00::/40"})).subnets == 255


def test_addresses_alone_make_no_second_family() -> None:
    for absent in (None, ""):
        report = check_cluster(dual({"cluster_pod_cidr6": absent}, {"w1": "not even an address"}))
        assert (errors(report), warnings(report)) == ([], [])


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"cluster_pod_cidr6": "10.0.0.0/8"}, "cluster_pod_cidr6: must be an IPv6 network, not 10.0.0.0/8"),
        ({"cluster_pod_cidr6": "fd00::"}, "cluster_pod_cidr6: must be a network like"),
        ({"cluster_pod_cidr6": "fd00::1/64"}, "cluster_pod_cidr6: fd00::1/64 has host bits set"),
        ({"cluster_pod_cidr6": "fd00::/125"}, "cluster_pod_cidr6: must be /124 or shorter"),
        ({"cluster_pod_cidr6": "fe80::/64"}, "cluster_pod_cidr6: must be a network that pods can be in"),
        ({"flannel_subnet6_len": 57}, "flannel_subnet6_len: must be 58 to 126, not 57"),
        ({"flannel_subnet6_len": "long"}, "flannel_subnet6_len: must be a whole number"),
        ({"flannel_subnet6_min": "fd00:10:245::"}, "flannel_subnet6_min: fd00:10:245:: is not inside the network"),
        ({"flannel_subnet6_max": "10.244.3.0"}, "flannel_subnet6_max: must be an IPv6 address"),
        (
            {"flannel_subnet6_min": "fd00:10:244:9::", "flannel_subnet6_max": "fd00:10:244:8::"},
            "flannel_subnet6_max: fd00:10:244:8:: is below",
        ),
        ({"flannel_backend_type": "ipip"}, "cluster_pod_cidr6: backend ipip carries IPv4 only"),
        ({"flannel_vxlan_vni": 10000}, "flannel_vxlan_vni: must be 1 to 9999 with cluster_pod_cidr6, not 10000"),
        ({"flannel_mtu": 1349}, "flannel_mtu: must be 0 or 1350 to 65535, not 1349: IPv6 needs 1280 bytes and 70"),
        ({"flannel_mtu": 1279, "flannel_backend_type": "host-gw"}, "flannel_mtu: must be 0 or 1280 to 65535, not 1279"),
    ],
    ids=str,
)
def test_wrong_variable_is_an_error(variables: dict[str, Any], problem: str) -> None:
    found = errors(check_cluster(dual(variables)))
    assert any(line.startswith(problem) for line in found), found
    assert len({line.split(":")[0] for line in found}) == 1, found


@pytest.mark.parametrize(
    "variables",
    [
        {"flannel_subnet6_len": 0},
        {"flannel_subnet6_len": "80", "flannel_subnet6_min": "fd00:10:244:3::"},
        {"flannel_subnet6_min": "", "flannel_subnet6_max": ""},
        {"flannel_mtu": 1350, "flannel_vxlan_vni": 9999},
        {"flannel_mtu": 1280, "flannel_backend_type": "host-gw"},
        {"flannel_public_address6": "2001:db8:9::1"},
    ],
    ids=str,
)
def test_what_can_be_is_no_problem(variables: dict[str, Any]) -> None:
    report = check_cluster(dual(variables))
    assert (errors(report), warnings(report)) == ([], [])


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (None, "is not set; every node of a cluster with cluster_pod_cidr6 needs one"),
        ("", "is not set; every node of a cluster with cluster_pod_cidr6 needs one"),
        ("w1.example.com", "must be an IP address, not 'w1.example.com'"),
        ("192.0.2.14", "192.0.2.14 is not an IPv6 address"),
        ("::1", "::1 is reached by no other node"),
        ("::", ":: is reached by no other node"),
        ("::ffff:192.0.2.14", "is reached by no other node"),
        ("fe80::1", "fe80::1 is reached by no other node"),
        ("ff02::1", "ff02::1 is reached by no other node"),
        ("fd00:10:244:3::1", "fd00:10:244:3::1 is inside cluster_pod_cidr6 fd00:10:244::/56"),
        ("2001:db8:2:0::11", "2001:db8:2::11 is also that of hosts.cp1.cluster_node_address6"),
    ],
)
def test_wrong_address_is_an_error_of_its_node(address: str | None, problem: str) -> None:
    found = errors(check_cluster(dual(addresses6={"w1": address})))
    assert len(found) == 1 and found[0].startswith("hosts.w1.cluster_node_address6: ") and problem in found[0], found


def test_every_member_of_the_overlay_needs_an_address_and_nobody_else() -> None:
    groups = {"etcd": ["w1"], "nodes": ["cp1", "cp2", "cp3"], "worker": []}
    assert errors(check_cluster(dual(addresses6={"w1": None}, groups=groups))) == []
    missing = check_cluster(dual(addresses6=dict.fromkeys(ADDRESSES6)))
    assert [line.split(": ")[0] for line in errors(missing)] == [
        f"hosts.{name}.cluster_node_address6" for name in ADDRESSES
    ]


def test_network_that_is_not_known_yet() -> None:
    declared = dual({"cluster_pod_cidr6": None})
    declared["settings"].append({"name": "cluster_pod_cidr6", "unresolved": "no facts yet"})
    assert errors(check_cluster(declared)) == [
        "cluster_pod_cidr6: cannot be computed before a node is asked (no facts yet)"
    ]


def test_nodes_must_agree_on_the_network() -> None:
    declared = dual({"cluster_pod_cidr6": None})
    declared["settings"].append({"name": "cluster_pod_cidr6", "value": PODS6, "hosts": ["w1"]})
    found = errors(check_cluster(declared))
    assert any(line.startswith("cluster_pod_cidr6: must be the same on all nodes") for line in found), found


def test_public_address_of_the_other_family() -> None:
    declared = dual()
    for name, value in (("flannel_public_address6", "203.0.113.4"), ("flannel_public_address", "2001:db8::4")):
        wrong = {"name": name, "value": value, "hosts": ["w1"]}
        found = errors(check_cluster({**declared, "settings": [*declared["settings"], wrong]}))
        assert len(found) == 1 and found[0].startswith(f"hosts.w1.{name}: must be IPv"), found


@pytest.mark.parametrize("variables", [{"flannel_subnet6_len": 64}, {"flannel_public_address6": "2001:db8::1"}])
def test_what_is_of_ipv6_only_is_a_warning_without_it(variables: dict[str, Any]) -> None:
    report = check_cluster(declaration(variables))
    (name,) = variables
    assert errors(report) == []
    assert warnings(report) == [f"{name}: is of IPv6, and cluster_pod_cidr6 is not set; nothing will read it"]


@given(st.integers(48, 120), st.integers(1, 40), st.data())
def test_as_many_nodes_as_there_are_subnets_and_not_one_more(prefix: int, count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(prefix + 2, 126))
    network = ipaddress.ip_network(f"fd00:10:244::/{prefix}")
    usable = 2 ** (length - prefix) - 1
    nodes = {f"n{number}": f"192.0.2.{number}" for number in range(1, count + 1)}
    report = check_cluster(
        declaration(
            {"cluster_pod_cidr6": str(network), "flannel_subnet6_len": length},
            {name: {"cluster_node_address6": f"2001:db8::{name[1:]}"} for name in nodes},
            addresses=nodes,
        )
    )
    assert any(f"{count} nodes need one each" in line for line in errors(report)) == (count > usable)
