# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the lab reads from an inventory, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from lab import inventory
from lab.errors import LabError


def listing(hosts: dict[str, str | None], **variables: Any) -> dict[str, Any]:
    values = {name: ({"ansible_host": address} if address else {}) | variables for name, address in hosts.items()}
    return {"_meta": {"hostvars": values}}


def test_defaults_fill_what_the_inventory_leaves_out() -> None:
    wanted = inventory.parse(listing({"a": "192.0.2.11"}))
    assert (wanted.name, wanted.lan, wanted.gateway, wanted.memory) == ("lab", "192.0.2.0/24", "192.0.2.1", 512)
    assert (wanted.features, wanted.packages, wanted.nodes) == ((), (), {"a": "192.0.2.11"})
    assert (wanted.lan6, wanted.gateway6, wanted.nodes6) == ("", "", {})


def test_variables_are_taken_over() -> None:
    wanted = inventory.parse(
        listing(
            {"b": "198.51.100.5", "a": "198.51.100.4"},
            lab_name="other",
            lab_lan="198.51.100.0/25",
            lab_gateway="198.51.100.126",
            lab_features=["vxlan"],
            lab_packages=["ipset", "etcd-server", "ipset"],
            lab_memory_mib=768,
        )
    )
    assert wanted.packages == ("etcd-server", "ipset")
    assert list(wanted.nodes) == ["a", "b"]
    assert (wanted.name, wanted.gateway, wanted.memory) == ("other", "198.51.100.126", 768)


def with_ipv6(addresses: dict[str, str], **variables: Any) -> dict[str, Any]:
    """Two nodes, those named with an IPv6 address."""
    given = listing({"a": "192.0.2.11", "b": "192.0.2.12"}, **variables)
    for name, address in addresses.items():
        given["_meta"]["hostvars"][name]["cluster_node_address6"] = address
    return given


def test_lan_with_ipv6_needs_a_kernel_with_it() -> None:
    wanted = inventory.parse(with_ipv6({"a": "2001:db8::a"}, lab_lan6="2001:db8::/64", lab_features=["vxlan"]))
    assert (wanted.lan6, wanted.gateway6, wanted.nodes6) == ("2001:db8::/64", "2001:db8::1", {"a": "2001:db8::a"})
    assert wanted.features == ("vxlan", "ipv6")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (listing({}), "no hosts"),
        (listing({"a": None}), r"hosts\.a\.ansible_host: '' is not an IPv4 address"),
        (listing({"a": "node.example"}), r"hosts\.a\.ansible_host: 'node.example' is not"),
        (listing({"a": "203.0.113.1"}), r"hosts\.a\.ansible_host: 203\.0\.113\.1 is outside"),
        (listing({"a": "192.0.2.1"}), r"hosts\.a\.ansible_host: 192\.0\.2\.1 belongs to lab_gateway"),
        (listing({"a": "192.0.2.5", "b": "192.0.2.5"}), r"hosts\.b\.ansible_host: 192\.0\.2\.5 belongs to a"),
        (listing({"a": "192.0.2.5"}, lab_lan="192.0.2.1/24"), "lab_lan: .*host bits"),
        (listing({"a": "192.0.2.5"}, lab_gateway="10.0.0.1"), "lab_gateway: 10.0.0.1 is outside"),
        (listing({"a": "192.0.2.5"}, lab_name="No Name"), "lab name 'No Name'"),
        (with_ipv6({"a": "2001:db8::a"}), r"hosts\.a\.cluster_node_address6: .* set lab_lan6"),
        (with_ipv6({}, lab_lan6="192.0.2.0/24"), "lab_lan6: "),
        (with_ipv6({"a": "192.0.2.3"}, lab_lan6="2001:db8::/64"), "cluster_node_address6: '192.0.2.3' is not an IPv6"),
        (with_ipv6({"b": "2001:db9::1"}, lab_lan6="2001:db8::/64"), r"hosts\.b\..*: 2001:db9::1 is outside"),
        (with_ipv6({"b": "2001:db8::1"}, lab_lan6="2001:db8::/64"), "2001:db8::1 belongs to lab_gateway6 already"),
        (with_ipv6({"a": "2001:db8::2", "b": "2001:db8::2"}, lab_lan6="2001:db8::/64"), "belongs to a already"),
    ],
)
def test_bad_inventory_is_refused_by_the_item_s_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        inventory.parse(given)
