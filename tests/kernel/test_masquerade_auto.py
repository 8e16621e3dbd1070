# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module masquerade beside others who filter forwarded packets: whom backend auto joins, and what it can only tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces

ARGS = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24"}
POD, NEIGHBOUR = "10.244.1.2", "10.244.2.2"
KINDS = ("iptables-nft", "iptables-legacy")
WALLS = {
    "policy": ["-P FORWARD DROP"],
    "rejects": ["-A FORWARD -s 203.0.113.0/24 -j ACCEPT", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"],
    "drops": ["-A FORWARD -m comment --comment closed -j DROP"],
}


class Site:
    """A node that forwards between two pods."""

    def __init__(self, netns: Namespaces, run_module: RunModule) -> None:
        self.node, self.pod, self.neighbour = netns("node"), netns("pod"), netns("neighbour")
        self.run_module = run_module
        for outer, inner, address in (("p0", self.pod, POD), ("p1", self.neighbour, NEIGHBOUR)):
            netns.link(inner, "e0", self.node, outer)
            gateway = address[:-1] + "1"
            inner.run(f"ip address add {address}/24 dev e0")
            self.node.run(f"ip address add {gateway}/24 dev {outer}")
            inner.run(f"ip route add default via {gateway}")
        self.node.run("sysctl -qw net.ipv4.ip_forward=1")

    def converge(self, **options: Any) -> dict[str, Any]:
        backend = options.pop("backend", "auto")
        return self.run_module("masquerade", {**ARGS, "backend": backend}, netns=self.node, **options)

    def talk(self) -> bool:
        """Whether the pods reach each other, both ways round."""
        there = packets.ask(self.pod, NEIGHBOUR)
        back = packets.ask(self.neighbour, POD)
        assert {there, back} in ({None}, {POD, NEIGHBOUR})
        return there is not None

    def places(self) -> list[str]:
        """Where rules of ours are, by the commands of each."""
        tables = self.node.out("nft list tables")
        saved = {kind: "FAIRLEAD-" in self.node.out(f"{kind}-save") for kind in KINDS}
        return [*(["nftables"] if "table ip fairlead" in tables else []), *(kind for kind in KINDS if saved[kind])]


@pytest.fixture
def site(netns: Namespaces, run_module: RunModule) -> Iterator[Site]:
    made = Site(netns, run_module)
    with packets.server(made.pod), packets.server(made.neighbour):
        yield made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, netns: Namespaces) -> str:
    name: str = request.param
    if netns("can").run(f"{name} -P FORWARD ACCEPT", check=False).returncode:
        pytest.skip(f"the kernel has no {name}, or it is not installed")
    return name


@pytest.mark.parametrize("wall", WALLS)
def test_pods_get_through_where_iptables_drops(site: Site, kind: str, wall: str) -> None:
    for rule in WALLS[wall]:
        site.node.run(f"{kind} {rule}")
    assert not site.talk()
    predicted = site.converge(check=True)
    result = site.converge()
    assert (predicted["backend"], result["backend"]) == (kind, kind)
    assert "FORWARD" in result["reason"] and ("DROP" in result["reason"] or "REJECT" in result["reason"])
    assert site.talk() and site.places() == [kind]
    for _again in range(2):
        again = site.converge()
        assert not again["changed"] and again["backend"] == kind
    assert "warnings" not in result and "warnings" not in again


def test_rules_of_others_are_reason_enough(site: Site, kind: str) -> None:
    site.node.run(f"{kind} -A FORWARD -s 203.0.113.0/24 -j DROP")
    result = site.converge()
    assert result["backend"] == kind and "rules of others" in result["reason"]
    assert site.places() == [kind] and site.talk()


def test_kind_that_drops_goes_before_the_kind_with_rules(site: Site) -> None:
    site.node.run("iptables-nft -A FORWARD -s 203.0.113.0/24 -j DROP")
    site.node.run("iptables-legacy -P FORWARD DROP")
    assert site.converge()["backend"] == "iptables-legacy"
    assert site.talk() and site.places() == ["iptables-legacy"]


def test_backend_iptables_takes_the_kind_that_drops(site: Site, kind: str) -> None:
    site.node.run(f"{kind} -P FORWARD DROP")
    assert site.converge(backend="iptables")["backend"] == kind
    assert site.talk()


def test_later_wall_moves_the_rules(site: Site, kind: str) -> None:
    assert site.converge()["backend"] == "nftables" and site.places() == ["nftables"]
    site.node.run(f"{kind} -P FORWARD DROP")
    assert not site.talk()
    moved = site.converge()
    assert moved["changed"] and moved["backend"] == kind
    assert site.talk() and site.places() == [kind]
    assert not site.converge()["changed"]


def test_move_has_no_gap(site: Site, kind: str) -> None:
    """Every packet of a stream is answered while the rules go from nftables to iptables."""
    site.converge()
    site.node.run(f"{kind} -A FORWARD -s 203.0.113.0/24 -j DROP")
    with packets.stream(site.pod, NEIGHBOUR) as counts:
        assert site.converge()["backend"] == kind
    sent, answered = counts
    assert sent > 20 and answered == sent
    assert site.places() == [kind]


def test_choice_stays_when_its_reason_goes(site: Site, kind: str, state_dir: Path) -> None:
    """Neither a later run nor a boot, which restores before Docker starts, moves the rules back."""
    site.node.run(f"{kind} -P FORWARD DROP")
    site.converge()
    site.node.run(f"{kind} -P FORWARD ACCEPT")
    result = site.converge()
    assert not result["changed"] and result["reason"] == "has the rules already"
    for table in ("nat", "filter"):
        site.node.run(f"{kind} -t {table} -F")
        site.node.run(f"{kind} -t {table} -X")
    assert site.places() == []
    document = json.loads((state_dir / site.node.name / "masquerade.json").read_text())
    assert document["remembered"] == kind
    result = site.converge()
    assert result["reason"] == "had the rules last" and site.places() == [kind]


def test_jump_that_no_packet_comes_to_is_moved(site: Site, kind: str) -> None:
    site.converge(backend="iptables")
    jump = ["-m", "comment", "--comment", "fairlead forward", "-j", "FAIRLEAD-FWD"]
    site.node.run([kind, "-N", "FAIRLEAD-FWD"], check=False)
    site.node.run([kind, "-D", "FORWARD", *jump], check=False)
    site.node.run(f"{kind} -A FORWARD -j REJECT")
    site.node.run([kind, "-A", "FORWARD", *jump])
    assert not site.talk()
    assert site.converge()["changed"]
    assert site.talk() and site.places() == [kind]
    forward = [line for line in site.node.out(f"{kind}-save").splitlines() if line.startswith("-A FORWARD")]
    assert [line.split()[-1] for line in forward] == ["FAIRLEAD-FWD", "icmp-port-unreachable"]
    assert not site.converge()["changed"]


def warned(result: dict[str, Any]) -> str:
    (warning,) = result["warnings"]
    return str(warning)


NFT_WALLS = {
    "policy": ["add chain inet firewall passing { type filter hook forward priority 10; policy drop; }"],
    "rule": [
        "add chain inet firewall passing { type filter hook forward priority 10; }",
        "add rule inet firewall passing ct state invalid drop",
        "add rule inet firewall passing counter reject with icmpx type admin-prohibited",
    ],
}


@pytest.mark.parametrize("wall", NFT_WALLS)
def test_chain_of_nftables_that_drops_is_named(site: Site, wall: str) -> None:
    site.node.run("nft add table inet firewall")
    for command in NFT_WALLS[wall]:
        site.node.run(["nft", command])
    for check in (True, False):
        warning = warned(site.converge(check=check))
        assert "chain passing of table inet firewall" in warning and "10.244.0.0/16" in warning
    assert not site.talk()
    site.node.run(["nft", "insert rule inet firewall passing ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 accept"])
    assert site.talk()


def test_chains_that_drop_some_packets_are_not_named(site: Site) -> None:
    site.node.run("nft add table inet firewall")
    site.node.run(["nft", "add chain inet firewall passing { type filter hook forward priority 10; }"])
    site.node.run(["nft", "add rule inet firewall passing ip saddr 203.0.113.0/24 drop"])
    site.node.run(["nft", "add chain inet firewall incoming { type filter hook input priority 10; policy drop; }"])
    assert "warnings" not in site.converge()


def test_wall_of_iptables_is_named_where_nftables_is_insisted_on(site: Site, kind: str) -> None:
    site.node.run(f"{kind} -P FORWARD DROP")
    warning = warned(site.converge(backend="nftables"))
    assert f"{kind}: chain FORWARD of table filter" in warning and "policy is DROP" in warning
    assert not site.talk()


def test_second_wall_is_named(site: Site) -> None:
    for kind in KINDS:
        site.node.run(f"{kind} -P FORWARD DROP")
    result = site.converge()
    (other,) = set(KINDS) - {result["backend"]}
    assert f"{other}: chain FORWARD" in warned(result)


def test_nothing_is_named_where_no_forward_rules_are_wanted(site: Site, run_module: RunModule) -> None:
    node: Namespace = site.node
    node.run("iptables-nft -P FORWARD DROP")
    result = run_module("masquerade", {**ARGS, "backend": "nftables", "forward": False}, netns=node)
    assert "warnings" not in result
