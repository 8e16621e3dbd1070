# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which interface carries an overlay: flannel's order, and what is told when there is none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.underlay import (
    Interface,
    Path,
    Rules,
    choose,
    require_direct,
)

INTERFACES = (
    Interface("eth0", 1500, ("192.0.2.1", "192.0.2.101")),
    Interface("eth1", 9000, ("198.51.100.1",)),
    Interface("net192", 1400, ("203.0.113.1",)),
    Interface("bare", 1500),
    Interface("lo", 65536, ("192.0.2.200",)),
)
NODE, PUBLIC = "192.0.2.1", "100.64.0.1"
PATHS = {
    "198.51.100.9": Path("eth1", "", "198.51.100.1"),
    "100.64.0.9": Path("eth0", "192.0.2.254", "192.0.2.101"),
    "10.0.0.1": Path("gone", ""),
}


def chosen(node: str = NODE, default: str | None = "eth1", **rules: Any) -> tuple[str, str]:
    rules["patterns"] = tuple(map(re.compile, rules.get("patterns", ())))
    interface, address = choose(Rules(**rules), node, INTERFACES, PATHS.get, default)
    return interface.name, address


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ({}, "eth0"),
        ({"interface": "eth1"}, "eth1"),
        ({"interface": "198.51.100.1"}, "eth1"),
        ({"interface": "192.0.2.101"}, "eth0"),
        ({"interface": "bare"}, "bare"),
        ({"patterns": ["^eth[1-9]$"]}, "eth1"),
        # Addresses of all interfaces come before all names.
        ({"patterns": ["192"]}, "eth0"),
        ({"patterns": ["net", "eth"]}, "net192"),
        ({"patterns": ["nothing", r"203\.0\."]}, "net192"),
        ({"can_reach": "198.51.100.9"}, "eth1"),
        ({"can_reach": "100.64.0.9"}, "eth0"),
        # The first that finds one counts.
        ({"interface": "eth1", "patterns": ["net192"], "can_reach": "100.64.0.9"}, "eth1"),
        ({"interface": "eth9", "patterns": ["net192"], "can_reach": "100.64.0.9"}, "net192"),
        ({"interface": "eth9", "patterns": ["nothing"], "can_reach": "198.51.100.9"}, "eth1"),
    ],
    ids=str,
)
def test_interface_is_chosen_in_flannels_order_and_packets_leave_with_the_nodes_address(
    rules: dict[str, Any], name: str
) -> None:
    assert chosen(**rules) == (name, NODE)


def test_interface_with_the_address_counts_also_when_that_is_loopback() -> None:
    assert chosen("192.0.2.200") == ("lo", "192.0.2.200")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ("eth1", "198.51.100.1")),
        ({"interface": "eth0"}, ("eth0", "192.0.2.1")),
        ({"interface": "192.0.2.101"}, ("eth0", "192.0.2.101")),
        ({"patterns": [r"\.101$"]}, ("eth0", "192.0.2.101")),
        ({"patterns": ["^eth0$"]}, ("eth0", "192.0.2.1")),
        ({"can_reach": "100.64.0.9"}, ("eth0", "192.0.2.101")),
    ],
    ids=str,
)
def test_translated_address_leaves_the_choice_to_the_rules_or_the_default_route(
    rules: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert chosen(PUBLIC, public_address=PUBLIC, **rules) == expected


INTERFACES6 = (
    Interface("eth0", 1500, ("2001:db8::1", "2001:db8::101"), ("192.0.2.1",)),
    Interface("eth1", 9000, ("2001:db8:1::1",), ("198.51.100.1", "198.51.100.2")),
    Interface("old", 1500, (), ("203.0.113.1",)),
)
NODE6, PUBLIC6 = "2001:db8::1", "2001:db8:ffff::1"
PATHS6 = {
    "2001:db8:1::9": Path("eth1", "", "2001:db8:1::1"),
    "198.51.100.9": Path("eth1", "", "198.51.100.1"),
    "2001:db8::9": Path("eth0", "", "2001:db8::101"),
}


def chosen6(node: str, default: str | None = "eth1", **rules: Any) -> tuple[str, str]:
    rules["patterns"] = tuple(map(re.compile, rules.get("patterns", ())))
    interface, address = choose(Rules(**rules), node, INTERFACES6, PATHS6.get, default)
    return interface.name, address


@pytest.mark.parametrize(
    ("rules", "name", "address"),
    [
        ({}, "eth0", None),
        ({"interface": "eth1"}, "eth1", "2001:db8:1::1"),
        ({"interface": "2001:db8::101"}, "eth0", "2001:db8::101"),
        # An address of the other IP version tells the interface only.
        ({"interface": "198.51.100.2"}, "eth1", "2001:db8:1::1"),
        ({"patterns": ["^2001:db8:1:"]}, "eth1", "2001:db8:1::1"),
        ({"patterns": [r"^198\.51\."]}, "eth1", "2001:db8:1::1"),
        # Addresses of either IP version come before names.
        ({"patterns": ["eth1", "101"]}, "eth1", "2001:db8:1::1"),
        ({"patterns": ["eth9", ":101$"]}, "eth0", "2001:db8::101"),
        ({"can_reach": "2001:db8::9"}, "eth0", "2001:db8::101"),
        ({"can_reach": "198.51.100.9"}, "eth1", "2001:db8:1::1"),
    ],
    ids=str,
)
def test_ipv6_interface_is_found_by_either_ip_version(rules: dict[str, Any], name: str, address: str | None) -> None:
    assert chosen6(NODE6, **rules) == (name, NODE6)
    expected = (name, address) if address else ("eth1", "2001:db8:1::1")
    assert chosen6(PUBLIC6, public_address=PUBLIC6, **rules) == expected


@pytest.mark.parametrize(
    ("node", "rules", "message"),
    [
        (
            PUBLIC6,
            {},
            "node.address6: 2001:db8:ffff::1 is on no interface of this node; there are 2001:db8::1 (eth0), ",
        ),
        (PUBLIC6, {"public_address": PUBLIC6, "interface": "old"}, "interface: old has no IPv6 address to carry"),
        (PUBLIC6, {"public_address": PUBLIC6, "patterns": ["^203"]}, "interface: old has no IPv6 address to carry"),
        (PUBLIC6, {"public_address": PUBLIC6, "default": None}, "interface: this node has no default route"),
        (NODE6, {"interface": "2001:db8::9"}, "interface: this node has no 2001:db8::9 to carry the overlay"),
    ],
    ids=str,
)
def test_no_interface_for_ipv6_is_told(node: str, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        chosen6(node, **rules)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("node", "rules", "message"),
    [
        (
            PUBLIC,
            {},
            "node.address: 100.64.0.1 is on no interface of this node; there are 192.0.2.1 (eth0), 192.0.2.101",
        ),
        (PUBLIC, {"interface": "eth0"}, "node.address: 100.64.0.1 is on no interface"),
        ("192.0.2.9", {"public_address": PUBLIC}, "node.address: 192.0.2.9 is on no interface"),
        (
            NODE,
            {"interface": "eth9"},
            "interface: this node has no eth9 to carry the overlay; it has eth0 (192.0.2.1, ",
        ),
        (
            NODE,
            {"interface": "eth9", "patterns": ["x$"], "can_reach": "192.0.2.9"},
            "interface: this node has no eth9 and none that matches 'x$' and none that reaches 192.0.2.9 to carry",
        ),
        (NODE, {"can_reach": "10.0.0.1"}, "interface: this node has none that reaches 10.0.0.1"),
        (PUBLIC, {"public_address": PUBLIC, "interface": "bare"}, "interface: bare has no IPv4 address"),
        (PUBLIC, {"public_address": PUBLIC, "default": None}, "interface: this node has no default route"),
    ],
    ids=str,
)
def test_none_to_choose_is_told_with_what_there_is(node: str, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        chosen(node, **rules)
    assert str(refusal.value).startswith(message)


PEERS = [("peer n2", "192.0.2.2"), ("peer n3", "192.0.2.3")]
ON_LINK = {address: Path("eth0", "") for _label, address in PEERS}


def test_nodes_on_one_link_need_nothing_between_them() -> None:
    require_direct(NODE, INTERFACES[0], PEERS, ON_LINK)


@pytest.mark.parametrize(
    ("node", "path", "message"),
    [
        (NODE, Path("eth0", "192.0.2.254"), "peer n3: 192.0.2.3 is behind gateway 192.0.2.254; backend host-gw needs"),
        (
            NODE,
            Path("eth1", ""),
            "peer n3: 192.0.2.3 is reached over eth1; backend host-gw needs all nodes on the link",
        ),
        (NODE, None, "peer n3: 192.0.2.3 is not reached by any route of this node; backend host-gw needs"),
        ("198.51.100.1", Path("eth0", ""), "node.address: 198.51.100.1 is not on eth0, which carries the overlay"),
    ],
    ids=["gateway", "another interface", "no route", "own address"],
)
def test_node_that_cannot_be_a_gateway_is_named(node: str, path: Path | None, message: str) -> None:
    paths = {address: found for address, found in {**ON_LINK, "192.0.2.3": path}.items() if found is not None}
    with pytest.raises(PrerequisiteError) as refusal:
        require_direct(node, INTERFACES[0], PEERS, paths)
    assert str(refusal.value).startswith(message)
