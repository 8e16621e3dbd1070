# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our modules against what real flanneld made of the same node (tests/fixtures/flannel): what differs is listed here.

The captures are made by scripts/capture-flannel and proven by tests/upstream; nothing here needs flanneld or Go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.upstream import capture, node_state
from tests.upstream.lan import Lan

NETWORK, NETWORK6 = "10.244.0.0/16", "fd00:10:244::/48"
DATAPATH = ("links", "addresses", "routes", "neighbors", "fdb", "sysctls")
FILTERS = ("iptables", "ip6tables", "nftables")
#: By capture, the parameters of overlay_network that ask for the same.
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan-ipv4": {"type": "vxlan", "vni": 1, "port": 8472},
    "vxlan-ipv4-nftables": {"type": "vxlan"},
    "vxlan-ipv4-direct": {"type": "vxlan", "direct_routing": True},
    "vxlan-ipv4-options": {"vni": 7, "port": 4789, "mtu": 1400, "gbp": True, "learning": True},
    "vxlan-dual": {"type": "vxlan"},
    "vxlan-dual-nftables": {"type": "vxlan"},
    "vxlan-dual-direct": {"type": "vxlan", "direct_routing": True},
    "host-gw-ipv4": {"type": "host-gw"},
    "host-gw-dual": {"type": "host-gw"},
}
# Chains and comments have names of ours, so that neither takes the other's rules for its own.
IPTABLES_NAMES = {
    "FLANNEL-POSTRTG": "FAIRLEAD-POSTRTG",
    "FLANNEL-FWD": "FAIRLEAD-FWD",
    "flanneld masq": "fairlead masquerade",
    "flanneld forward": "fairlead forward",
}
NFTABLES_NAMES = {"flannel-ipv4": "fairlead", "flannel-ipv6": "fairlead", "postrtg": "postrouting"}


def captured(name: str, number: int) -> dict[str, Any]:
    state: dict[str, Any] = capture.stored(name)["nodes"][f"n{number}"]
    return state


def members(name: str) -> list[dict[str, str]]:
    """The nodes of a capture, as our modules are told of them."""
    found = []
    for key, entry in capture.stored(name)["leases"].items():
        value = json.loads(entry["value"])
        member = {"name": f"n{value['PublicIP'].rpartition('.')[2]}"}
        for suffix, version, subnet in zip(("", "6"), ("", "v6"), key.replace("-", "/").split("&"), strict=False):
            member |= {f"address{suffix}": value[f"PublicIP{version}"], f"subnet{suffix}": subnet}
            data = value.get(f"Backend{version.upper()}Data") or {}
            member |= {f"mac{suffix}": data["VtepMAC"]} if data else {}
        found.append(member)
    return found


def comparable(node: Namespace, name: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The node's state and the captured one. Other kernels and tools than those of the capture know other settings."""
    have, want, versions = node_state.read(node), captured(name, number), capture.versions(node)
    if versions == capture.stored(name)["made_with"]:
        return have, want
    return node_state.common(have, want), node_state.common(want, have)


@pytest.fixture(params=capture.NODES)
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def node(number: int, netns: Namespaces, tmp_path: Path) -> Namespace:
    """A node as it is before flanneld comes."""
    return Lan(netns, tmp_path).node(number)


@pytest.mark.parametrize("by_object", [False, True], ids=["plain routes", "routes by object"])
@pytest.mark.parametrize("name", BACKENDS)
def test_datapath_is_flannels(
    name: str, by_object: bool, number: int, node: Namespace, run_module: RunModule, tmp_path: Path
) -> None:
    """Flannel knows no nexthop objects: with them the routes name one, and lead to the same gateway and device."""
    own = next(member for member in members(name) if member["name"] == f"n{number}")
    file = tmp_path / "subnet.env"
    dual = "-dual" in name
    run_module(
        "overlay_network",
        {
            "network": NETWORK,
            **({"network6": NETWORK6} if dual else {}),
            "backend": BACKENDS[name],
            "node": own,
            "peers": members(name),
            "subnet_env": {"path": str(file), "ipmasq": True},
            "nexthop_objects": by_object,
        },
        netns=node,
    )
    have, want = comparable(node, name, number)
    named = [(route.pop("nhid"), route.pop("nh_info", None)) for route in have["routes"]["4"] if "nhid" in route]
    have["routes"]["4"].sort(key=lambda route: json.dumps(route, sort_keys=True))
    assert len(named) == len(node.json("ip -j nexthop show")) == (len(members(name)) - 1 if by_object else 0)
    for part in DATAPATH:
        assert without_deliberate(have[part]) == want[part], part
    subnet_env = captured(name, number)["subnet_env"]
    if dual and name.startswith("vxlan"):
        # What flannel tells pods does not fit through its own device for IPv6, which the kernel made narrower.
        subnet_env = [line.replace("MTU=1450", "MTU=1430") for line in subnet_env]
    assert file.read_text().splitlines() == subnet_env


def without_deliberate(part: Any) -> Any:
    """Addresses of IPv6 are ours without waiting for duplicates; nobody else would be asked on such a device."""
    text = json.dumps(part)
    return json.loads(text.replace(', "nodad": true', ""))


def chains(saved: list[str]) -> dict[str, dict[str, list[str]]]:
    """Policies and rules by table and chain from lines of iptables-save, which sorts neither tables nor chains."""
    tables: dict[str, dict[str, list[str]]] = {}
    for line in saved:
        if line.startswith("*"):
            table = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            table[chain] = [f"policy {policy}"]
        elif line.startswith("-A "):
            table[line.split()[1]].append(line)
    return tables


def renamed(value: Any, names: dict[str, str]) -> Any:
    text = json.dumps(value)
    for theirs, ours in names.items():
        text = text.replace(theirs, ours)
    return json.loads(text)


#: By capture, the pod networks beside IPv4's: none, or that of IPv6 with the subnet of a node.
DUAL = {"network6": "fd00:10:244::/48", "subnet6": "fd00:10:244:{number}::/64"}
FAMILIES: dict[str, dict[str, str]] = {
    "vxlan-ipv4": {},
    "vxlan-dual": DUAL,
    "vxlan-ipv4-nftables": {},
    "vxlan-dual-nftables": DUAL,
}
OF_IPTABLES = ("vxlan-ipv4", "vxlan-dual")
OF_NFTABLES = ("vxlan-ipv4-nftables", "vxlan-dual-nftables")


def masquerade(node: Namespace, name: str, number: int, backend: str, run_module: RunModule) -> None:
    """As the capture has it."""
    arguments = {"network": NETWORK, "subnet": f"10.244.{number}.0/24", "backend": backend}
    of_ipv6 = {key: value.format(number=number) for key, value in FAMILIES[name].items()}
    run_module("masquerade", {**arguments, **of_ipv6}, netns=node)


@pytest.mark.parametrize("name", OF_IPTABLES)
def test_iptables_rules_are_flannels(name: str, number: int, node: Namespace, run_module: RunModule) -> None:
    masquerade(node, name, number, "iptables", run_module)
    have, want = comparable(node, name, number)
    for command in ("iptables", "ip6tables"):
        assert chains(have[command]) == chains(renamed(want[command], IPTABLES_NAMES))
    assert bool(chains(have["ip6tables"])) == (FAMILIES[name] == DUAL)
    assert have["nftables"] == want["nftables"]


def match(operator: str, left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def address(field: str, network: str, operator: str = "==") -> dict[str, Any]:
    base, _slash, length = network.partition("/")
    payload = {"payload": {"protocol": "ip6" if ":" in base else "ip", "field": field}}
    return match(operator, payload, {"prefix": {"addr": base, "len": int(length)}})


def deliberate(family: str, network: str, subnet: str) -> dict[Place, tuple[list[Any], list[Any]]]:
    """Rules of nftables that differ on purpose, by place: flannel's expressions, and ours.

    Ours is what flannel's own rules for iptables say, so that a node may change its packet filter and nothing else.
    """
    mark, verdict = {"meta": {"key": "mark"}}, {"return": None}
    return {
        # kube-proxy owns one bit of the mark. Compared as a whole, a packet with any other bit set beside it would be
        # masqueraded here although kube-proxy wants to do it.
        (family, "postrouting", 0): (
            [match("==", mark, 0x4000), verdict],
            [match("==", {"&": [mark, 0x4000]}, 0x4000), verdict],
        ),
        # Flannel's rule returns for all that enters the network from outside of this node's part of it, so that the
        # last rule, which masquerades what comes from outside of the network, is never reached.
        (family, "postrouting", 3): (
            [address("saddr", subnet, "!="), address("daddr", network), verdict],
            [address("saddr", network, "!="), address("daddr", subnet), verdict],
        ),
    }


#: Family, chain and position of a rule.
Place = tuple[str, str, int]


def rules(state: dict[str, Any]) -> dict[Place, list[Any]]:
    """Expressions by place."""
    found: dict[Place, list[Any]] = {}
    for entry in state["nftables"]:
        if "rule" in entry:
            of_chain = (entry["rule"]["family"], entry["rule"]["chain"])
            found[*of_chain, sum(1 for place in found if place[:2] == of_chain)] = entry["rule"]["expr"]
    return found


@pytest.mark.parametrize("name", OF_NFTABLES)
def test_nftables_rules_are_those_of_flannels_iptables(
    name: str, number: int, node: Namespace, run_module: RunModule
) -> None:
    masquerade(node, name, number, "nftables", run_module)
    have, want = comparable(node, name, number)
    theirs = rules({"nftables": renamed(want["nftables"], NFTABLES_NAMES)})
    ours = rules(have)
    assert sorted(ours) == sorted(theirs)
    different = {place: (theirs[place], ours[place]) for place in ours if ours[place] != theirs[place]}
    expected = deliberate("ip", NETWORK, f"10.244.{number}.0/24")
    if FAMILIES[name]:
        expected |= deliberate("ip6", DUAL["network6"], DUAL["subnet6"].format(number=number))
    assert different == expected


@pytest.mark.parametrize("name", OF_NFTABLES)
def test_nftables_chains_are_flannels_without_its_empty_table(
    name: str, number: int, node: Namespace, run_module: RunModule
) -> None:
    masquerade(node, name, number, "nftables", run_module)
    have, want = comparable(node, name, number)
    theirs = [entry for entry in renamed(want["nftables"], NFTABLES_NAMES) if "rule" not in entry]
    if not FAMILIES[name]:
        # It makes a table for IPv6 in an IPv4 network too, and puts nothing in it.
        theirs.remove({"table": {"family": "ip6", "name": "fairlead"}})
    ours = [entry for entry in have["nftables"] if "rule" not in entry]
    assert sorted(map(json.dumps, ours)) == sorted(map(json.dumps, theirs))
    assert (have["iptables"], have["ip6tables"]) == (want["iptables"], want["ip6tables"])
