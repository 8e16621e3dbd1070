# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A declared overlay: what is refused, and which kernel objects it asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.files import File
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import (
    Underlay,
    parse_overlay,
    wanted_items,
)

DOCUMENT: dict[str, Any] = {
    "network": "10.244.0.0/16",
    "backend": {"type": "vxlan", "vni": 1, "port": 8472, "mtu": 0},
    "node": {"name": "a", "address": "192.0.2.1", "subnet": "10.244.1.0/24", "mac": "02:00:00:00:00:01"},
    "peers": [
        {"name": "b", "address": "192.0.2.2", "subnet": "10.244.2.0/24", "mac": "02:00:00:00:00:02"},
        {"name": "c", "address": "192.0.2.3", "subnet": "10.244.3.0/24", "mac": "02:00:00:00:00:03"},
    ],
    "interface": None,
    "subnet_env": None,
}
Change = Callable[[dict[str, Any]], Any]


def document(change: Change | None = None) -> dict[str, Any]:
    changed = copy.deepcopy(DOCUMENT)
    if change is not None:
        change(changed)
    return changed


def peer(index: int, **values: Any) -> Change:
    return lambda data: data["peers"][index].update(values)


def node(**values: Any) -> Change:
    return lambda data: data["node"].update(values)


def backend(**values: Any) -> Change:
    return lambda data: data["backend"].update(values)


BAD: dict[str, tuple[Change, str]] = {
    "network with host bits": (lambda d: d.update(network="10.244.0.1/16"), "network: 10.244.0.1/16 has host bits"),
    "network too small": (lambda d: d.update(network="10.244.1.0/29"), "network: 10.244.1.0/29 is too small"),
    "network of IPv6": (lambda d: d.update(network="fd00::/48"), "network: must be IPv4"),
    "backend unknown": (backend(type="udp"), "backend.type: must be one of vxlan, host-gw, ipip, not 'udp'"),
    "vni zero": (backend(vni=0), "backend.vni: must be 1 to 9999999, not 0"),
    "vni too long for a device name": (backend(vni=10000000), "backend.vni: must be 1 to 9999999"),
    "port too high": (backend(port=65536), "backend.port: must be 1 to 65535"),
    "mtu too small": (backend(mtu=100), "backend.mtu: must be 118 to 65535, not 100"),
    "mtu too small for ipip": (backend(type="ipip", vni=None, port=None, mtu=87), "backend.mtu: must be 88 to 65535"),
    "vni of host-gw": (backend(type="host-gw"), "backend.vni: is no option of backend host-gw"),
    "direct host-gw": (
        backend(type="host-gw", vni=None, port=None, direct_routing=True),
        "backend.direct_routing: is no option of backend host-gw",
    ),
    "gbp of ipip": (backend(type="ipip", vni=None, port=None, gbp=True), "backend.gbp: is no option of backend ipip"),
    "learning is no switch": (backend(learning=1), "backend.learning: must be true or false, not 1"),
    "no MAC": (peer(0, mac=None), "peers[0].mac: is required"),
    "public address of host-gw": (
        lambda d: d.update(backend={"type": "host-gw"}, public_address="203.0.113.1"),
        "public_address: 203.0.113.1 is not 192.0.2.1, the node's address",
    ),
    "public address of IPv6": (lambda d: d.update(public_address="fd00::1"), "public_address: must be IPv4"),
    "unreachable is no address": (
        lambda d: d.update(interface_can_reach="gateway"),
        "interface_can_reach: must be an IP address, not 'gateway'",
    ),
    "broken pattern": (
        lambda d: d.update(interface_regex=["eth.", "eth["]),
        "interface_regex[1]: must be a regular expression, not 'eth['",
    ),
    "pattern not a string": (
        lambda d: d.update(interface_regex=[1]),
        "interface_regex[0]: must be a regular expression",
    ),
    "patterns not a list": (lambda d: d.update(interface_regex="eth0"), "interface_regex: must be a list"),
    "unknown backend option": (backend(vnid=1), "backend.vnid: is unknown here"),
    "no node": (lambda d: d.pop("node"), "node: is required"),
    "node without a name": (node(name=None), "node.name: is required"),
    "address in the pod network": (node(address="10.244.1.1"), "node.address: 10.244.1.1 is inside the pod network"),
    "address of IPv6": (peer(0, address="fd00::1"), "peers[0].address: must be IPv4"),
    "address of loopback": (peer(1, address="127.0.0.1"), "peers[1].address: must be the address of a node"),
    "address of a group": (peer(1, address="224.0.0.1"), "peers[1].address: must be the address of a node"),
    "no address": (peer(0, address="b.example"), "peers[0].address: must be an IP address, not 'b.example'"),
    "subnet outside": (peer(1, subnet="10.245.0.0/24"), "peers[1].subnet: 10.245.0.0/24 is not inside the pod network"),
    "subnet too large": (
        node(subnet="10.244.128.0/17"),
        "node.subnet: 10.244.128.0/17 must have a prefix of /18 to /30",
    ),
    "subnet too small": (node(subnet="10.244.1.0/31"), "node.subnet: 10.244.1.0/31 must have a prefix of /18 to /30"),
    "subnet twice": (peer(1, subnet="10.244.2.0/24"), "peers[1].subnet: subnet 10.244.2.0/24 is also that of peers[0]"),
    "own subnet": (
        peer(0, subnet="10.244.1.0/24"),
        "peers[0].subnet: subnet 10.244.1.0/24 is also that of node.subnet",
    ),
    "subnets overlap": (
        peer(0, subnet="10.244.3.128/25"),
        "peers[0].subnet: 10.244.3.128/25 overlaps 10.244.3.0/24 of",
    ),
    "enclosing subnet": (
        peer(1, subnet="10.244.0.0/20"),
        "node.subnet: 10.244.1.0/24 overlaps 10.244.0.0/20 of peers[1]",
    ),
    "address twice": (
        peer(1, address="192.0.2.2"),
        "peers[1].address: address 192.0.2.2 is also that of peers[0].address",
    ),
    "MAC twice": (
        peer(1, mac="02:00:00:00:00:01"),
        "peers[1].mac: MAC address 02:00:00:00:00:01 is also that of node.mac",
    ),
    "MAC twice in another case": (
        peer(1, mac="02:00:00:00:00:02".upper()),
        "peers[1].mac: MAC address 02:00:00:00:00:02",
    ),
    "name twice": (peer(1, name="b"), "peers[1].name: name b is also that of peers[0].name"),
    "MAC of a group": (peer(0, mac="01:00:00:00:00:02"), "peers[0].mac: must be the address of one device"),
    "MAC of zeros": (node(mac="00:00:00:00:00:00"), "node.mac: must be the address of one device"),
    "MAC too short": (node(mac="02:00:00:00:01"), "node.mac: must be a MAC address"),
    "peers not a list": (lambda d: d.update(peers={"b": {}}), "peers: must be a list"),
    "peer not a mapping": (lambda d: d["peers"].append("d"), "peers[2]: must be a mapping"),
    "misspelt option": (lambda d: d.update(peer=[]), "peer: is unknown here"),
    "interface name too long": (lambda d: d.update(interface="a" * 16), "interface: must be an interface name"),
    "relative path": (lambda d: d.update(subnet_env={"path": "subnet.env"}), "subnet_env.path: must be absolute"),
}


@pytest.mark.parametrize("case", BAD)
def test_overlay_refused_names_the_item(case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(SpecError) as refusal:
        parse_overlay(document(change))
    assert str(refusal.value).startswith(message)


def wanted(data: dict[str, Any], mtu: int = 1500, direct: dict[str, str] | None = None) -> list[str]:
    underlay = Underlay("eth0", mtu, direct=direct or {})
    return [str(item) for item in wanted_items(parse_overlay(data), underlay, 0, False)]


def test_overlay_asks_for_what_flannel_makes() -> None:
    assert wanted(document()) == [
        "vxlan flannel.1 id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning address 02:00:00:00:00:01 mtu 1450 "
        "accept_ra 0",
        "address 10.244.1.0/32 dev flannel.1",
        "link flannel.1 up",
        "neighbor 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1",
        "fdb 02:00:00:00:00:02 dst 192.0.2.2 dev flannel.1 self",
        "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "neighbor 10.244.3.0 lladdr 02:00:00:00:00:03 dev flannel.1",
        "fdb 02:00:00:00:00:03 dst 192.0.2.3 dev flannel.1 self",
        "route 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
    ]


def without_macs(**values: Any) -> Change:
    """A document for a backend that has none."""

    def change(data: dict[str, Any]) -> None:
        data["backend"] = values
        for entry in (data["node"], *data["peers"]):
            del entry["mac"]

    return change


def test_overlay_of_host_gw_is_routes_over_the_underlay_alone() -> None:
    assert wanted(document(without_macs(type="host-gw"))) == [
        "route 10.244.2.0/24 via 192.0.2.2 dev eth0",
        "route 10.244.3.0/24 via 192.0.2.3 dev eth0",
    ]


def test_overlay_of_ipip_routes_to_nodes_over_its_device() -> None:
    assert wanted(document(without_macs(type="ipip"))) == [
        "ipip flannel.ipip local 192.0.2.1 mtu 1480",
        "address 10.244.1.0/32 dev flannel.ipip",
        "link flannel.ipip up",
        "route 10.244.2.0/24 via 192.0.2.2 dev flannel.ipip onlink",
        "route 10.244.3.0/24 via 192.0.2.3 dev flannel.ipip onlink",
    ]


def test_overlay_reaches_direct_peers_as_flannel_does() -> None:
    """Flannel's vxlan leaves everything else away, and its ipip keeps the flag."""
    items = wanted(document(backend(direct_routing=True)), direct={"192.0.2.2": "eth7"})
    assert items[3:] == [
        "route 10.244.2.0/24 via 192.0.2.2 dev eth7",
        "neighbor 10.244.3.0 lladdr 02:00:00:00:00:03 dev flannel.1",
        "fdb 02:00:00:00:00:03 dst 192.0.2.3 dev flannel.1 self",
        "route 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
    ]
    items = wanted(document(without_macs(type="ipip", direct_routing=True)), direct={"192.0.2.2": "eth0"})
    assert items[3:] == [
        "route 10.244.2.0/24 via 192.0.2.2 dev eth0 onlink",
        "route 10.244.3.0/24 via 192.0.2.3 dev flannel.ipip onlink",
    ]


def test_overlay_leaves_out_peers_of_another_backend_whatever_they_are() -> None:
    def with_others(data: dict[str, Any]) -> None:
        data["peers"] += [
            {"address": "192.0.2.4", "subnet": "10.244.4.0/24", "mac": "", "backend_type": "host-gw"},
            {"address": "nowhere", "subnet": "10.244.2.0/24", "backend_type": "udp"},
        ]

    assert wanted(document(with_others)) == wanted(document())


def test_overlay_outer_address_is_that_of_the_underlay_where_the_public_one_is_translated() -> None:
    overlay = parse_overlay(document(lambda d: d.update(public_address="192.0.2.1")))
    device = next(iter(wanted_items(overlay, Underlay("eth0", 1500, "10.0.0.5"), 0, False)))
    assert str(device).startswith("vxlan flannel.1 id 1 local 10.0.0.5 dev eth0 ")


def test_overlay_own_entry_among_peers_is_skipped() -> None:
    assert wanted(document(lambda d: d["peers"].append(d["node"]))) == wanted(document())


def test_overlay_takes_leases_as_they_are() -> None:
    def with_lease_keys(data: dict[str, Any]) -> None:
        for index, entry in enumerate(data["peers"]):
            entry.update(backend_type="vxlan", ttl=86399 - index, name=None)

    assert wanted(document(with_lease_keys)) == wanted(document())


def test_overlay_device_mtu_is_fifty_below_the_declared_one() -> None:
    assert " mtu 8950 " in wanted(document(), mtu=9000)[0]
    assert " mtu 1350 " in wanted(document(backend(mtu=1400)), mtu=9000)[0]


@pytest.mark.parametrize(("kind", "mtu"), [("vxlan", 1450), ("ipip", 1480), ("host-gw", 1500)])
def test_overlay_pods_send_what_the_backend_leaves(kind: str, mtu: int) -> None:
    data = document(lambda d: d.update(backend={"type": kind}, subnet_env={}))
    *_, file = wanted_items(parse_overlay(data), Underlay("eth0", 1500), 0, False)
    assert isinstance(file, File) and f"FLANNEL_MTU={mtu}\n" in file.content


def test_overlay_mtu_above_the_interface_is_refused() -> None:
    with pytest.raises(SpecError, match=r"backend.mtu: 9000 is more than 1500, the MTU of eth0"):
        wanted(document(backend(mtu=9000)))


def test_overlay_subnet_env_is_as_flannel_writes_it() -> None:
    data = document(lambda d: d.update(subnet_env={"path": "/run/flannel/subnet.env", "ipmasq": True}))
    *_, file = wanted_items(parse_overlay(data), Underlay("eth0", 1500), 0, False)
    assert file == File(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        "0644",
    )
