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


def dual(change: Change | None = None) -> Change:
    """The same document with IPv6 beside IPv4."""

    def widen(data: dict[str, Any]) -> None:
        data["network6"] = "fd00:10:244::/48"
        for number, entry in enumerate((data["node"], *data["peers"]), 1):
            entry |= {"address6": f"2001:db8::{number}", "subnet6": f"fd00:10:244:{number}::/64"}
            entry["mac6"] = f"02:00:00:00:06:0{number}"
        if change is not None:
            change(data)

    return widen


def ipv6_only(data: dict[str, Any]) -> None:
    dual()(data)
    del data["network"]
    for entry in (data["node"], *data["peers"]):
        for field in ("address", "subnet", "mac"):
            del entry[field]


BAD: dict[str, tuple[Change, str]] = {
    "network with host bits": (lambda d: d.update(network="10.244.0.1/16"), "network: 10.244.0.1/16 has host bits"),
    "network too small": (lambda d: d.update(network="10.244.1.0/29"), "network: 10.244.1.0/29 is too small"),
    "network of IPv6": (lambda d: d.update(network="fd00::/48"), "network: must be IPv4"),
    "backend unknown": (backend(type="udp"), "backend.type: must be one of vxlan, host-gw, ipip, wireguard, not 'udp'"),
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
    "network6 of IPv4": (dual(lambda d: d.update(network6="10.0.0.0/8")), "network6: must be IPv6, not IPv4"),
    "network6 too small": (dual(lambda d: d.update(network6="fd00::/125")), "network6: fd00::/125 is too small"),
    "network6 of ipip": (
        dual(lambda d: d.update(backend={"type": "ipip"})),
        "network6: backend ipip carries IPv4 only",
    ),
    "vni too long for IPv6": (dual(backend(vni=10000)), "backend.vni: must be at most 9999 with network6"),
    "node without IPv6": (dual(node(address6=None)), "node.address6: is required"),
    "half of a half": (dual(peer(0, subnet6=None)), "peers[0].subnet6: is required"),
    "peer without any half": (dual(lambda d: d["peers"].append({"name": "d"})), "peers[2].address: is required"),
    "no MAC of IPv6": (dual(peer(0, mac6=None)), "peers[0].mac6: is required"),
    "address6 of IPv4": (dual(peer(0, address6="192.0.2.9")), "peers[0].address6: must be IPv6, not IPv4"),
    "address6 on the link only": (
        dual(peer(0, address6="fe80::2")),
        "peers[0].address6: must be the address of a node",
    ),
    "address6 of loopback": (dual(peer(0, address6="::1")), "peers[0].address6: must be the address of a node"),
    "address6 of a group": (dual(peer(0, address6="ff02::1")), "peers[0].address6: must be the address of a node"),
    "address6 of IPv4 in disguise": (
        dual(peer(0, address6="::ffff:192.0.2.9")),
        "peers[0].address6: must be the address of a node",
    ),
    "address6 in the pod network": (
        dual(node(address6="fd00:10:244::9")),
        "node.address6: fd00:10:244::9 is inside the pod network fd00:10:244::/48",
    ),
    "address6 twice in another form": (
        dual(peer(1, address6="2001:DB8:0::2")),
        "peers[1].address6: address 2001:db8::2 is also that of peers[0].address6",
    ),
    "MAC of IPv6 twice": (
        dual(peer(1, mac6="02:00:00:00:06:02")),
        "peers[1].mac6: MAC address 02:00:00:00:06:02 is also that of peers[0].mac6",
    ),
    "subnet6 outside": (dual(peer(0, subnet6="fd00:1::/64")), "peers[0].subnet6: fd00:1::/64 is not inside the pod"),
    "subnet6 too large": (
        dual(peer(0, subnet6="fd00:10:244:8000::/49")),
        "peers[0].subnet6: fd00:10:244:8000::/49 must have a prefix of /50 to /126",
    ),
    "subnets of IPv6 overlap": (
        dual(peer(1, subnet6="fd00:10:244:2:8000::/65")),
        "peers[1].subnet6: fd00:10:244:2:8000::/65 overlaps fd00:10:244:2::/64 of peers[0].subnet6",
    ),
    "public address of IPv4 for IPv6": (
        dual(lambda d: d.update(public_address6="203.0.113.1")),
        "public_address6: must be IPv6, not IPv4",
    ),
    "interface no address": (lambda d: d.update(interface="fd00::g"), "interface: must be an IP address, not"),
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
    underlay, overlay = Underlay("eth0", mtu, direct=direct or {}), parse_overlay(data)
    return [str(item) for item in wanted_items(overlay, [underlay] * len(overlay.families), 0, False)]


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
    device = next(iter(wanted_items(overlay, [Underlay("eth0", 1500, "10.0.0.5")], 0, False)))
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
    *_, file = wanted_items(parse_overlay(data), [Underlay("eth0", 1500)], 0, False)
    assert isinstance(file, File) and f"FLANNEL_MTU={mtu}\n" in file.content


def test_overlay_mtu_above_the_interface_is_refused() -> None:
    with pytest.raises(SpecError, match=r"backend.mtu: 9000 is more than 1500, the MTU of eth0"):
        wanted(document(backend(mtu=9000)))


def test_overlay_subnet_env_is_as_flannel_writes_it() -> None:
    data = document(lambda d: d.update(subnet_env={"path": "/run/flannel/subnet.env", "ipmasq": True}))
    *_, file = wanted_items(parse_overlay(data), [Underlay("eth0", 1500)], 0, False)
    assert file == File(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        "0644",
    )


def test_overlay_dual_stack_is_both_halves_over_underlays_of_their_own() -> None:
    ipv4 = wanted(document())
    assert wanted(document(dual())) == [
        *ipv4,
        "vxlan flannel-v6.1 id 1 local 2001:db8::1 dev eth0 dstport 8472 nolearning address 02:00:00:00:06:01 mtu 1430 "
        "accept_ra 0",
        "address fd00:10:244:1::/128 dev flannel-v6.1",
        "link flannel-v6.1 up",
        "neighbor fd00:10:244:2:: lladdr 02:00:00:00:06:02 dev flannel-v6.1",
        "fdb 02:00:00:00:06:02 dst 2001:db8::2 dev flannel-v6.1 self",
        "route fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink metric 1024",
        "neighbor fd00:10:244:3:: lladdr 02:00:00:00:06:03 dev flannel-v6.1",
        "fdb 02:00:00:00:06:03 dst 2001:db8::3 dev flannel-v6.1 self",
        "route fd00:10:244:3::/64 via fd00:10:244:3:: dev flannel-v6.1 onlink metric 1024",
    ]
    assert wanted(document(ipv6_only)) == wanted(document(dual()))[len(ipv4) :]


def test_overlay_of_host_gw_is_routes_of_both_versions() -> None:
    change = without_macs(type="host-gw")
    assert wanted(document(dual(change))) == [
        "route 10.244.2.0/24 via 192.0.2.2 dev eth0",
        "route 10.244.3.0/24 via 192.0.2.3 dev eth0",
        "route fd00:10:244:2::/64 via 2001:db8::2 dev eth0 metric 1024",
        "route fd00:10:244:3::/64 via 2001:db8::3 dev eth0 metric 1024",
    ]


def test_overlay_peer_may_have_one_half() -> None:
    """As while a cluster becomes dual stack, or has been; what the undeclared version is told is left alone."""

    def without_half(data: dict[str, Any]) -> None:
        for field in ("address", "subnet", "mac"):
            del data["peers"][0][f"{field}6"], data["peers"][1][field]

    items = wanted(document(dual(without_half)))
    assert [item for item in items if item.startswith("route")] == [
        "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "route fd00:10:244:3::/64 via fd00:10:244:3:: dev flannel-v6.1 onlink metric 1024",
    ]
    assert wanted(document(dual(lambda data: data.pop("network6")))) == wanted(document())


@pytest.mark.parametrize(("change", "mtu"), [(dual(), 1430), (ipv6_only, 1430)])
def test_overlay_subnet_env_of_ipv6_is_as_flannel_writes_it(change: Change, mtu: int) -> None:
    data = document(change)
    data["subnet_env"] = {}
    underlays = [Underlay("eth0", 1500)] * 2
    *_, file = wanted_items(parse_overlay(data), underlays, 0, False)
    ipv4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" if "network" in data else ""
    ipv6 = "FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n"
    assert isinstance(file, File)
    assert file.content == f"{ipv4}{ipv6}FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n"


def test_overlay_underlay_too_narrow_for_ipv6_is_refused() -> None:
    assert " mtu 1280 " in wanted(document(ipv6_only), mtu=1350)[0]
    with pytest.raises(SpecError, match=r"backend.mtu: leaves 1279 bytes for packets of pods, and IPv6 needs 1280"):
        wanted(document(dual()), mtu=1349)


def test_overlay_network_of_ipv4_is_taken_for_granted_only_without_ipv6() -> None:
    data = document(lambda d: d.pop("network"))
    assert wanted(data) == wanted(document())
    assert len(parse_overlay(document(ipv6_only)).families) == 1
