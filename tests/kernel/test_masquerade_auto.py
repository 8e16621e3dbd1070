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
from tests.kernel.packet_filters import V4, V6, Half, places

ARGS = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24"}
POD, NEIGHBOUR = "10.244.1.2", "10.244.2.2"
ARGS6 = {"network6": "fd00:10:244::/48", "subnet6": "fd00:10:244:1::/64"}
POD6, NEIGHBOUR6 = "fd00:10:244:1::2", "fd00:10:244:2::2"
PODS, PODS6 = (POD, NEIGHBOUR), (POD6, NEIGHBOUR6)
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
        for namespace in netns.made:
            namespace.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        for outer, inner, *addresses in (("p0", self.pod, POD, POD6), ("p1", self.neighbour, NEIGHBOUR, NEIGHBOUR6)):
            netns.link(inner, "e0", self.node, outer)
            for address, length in zip(addresses, (24, 64), strict=True):
                gateway = address[:-1] + "1"
                inner.run(f"ip address add {address}/{length} dev e0")
                self.node.run(f"ip address add {gateway}/{length} dev {outer}")
                inner.run(f"ip route add default via {gateway}")
        self.node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def converge(self, **options: Any) -> dict[str, Any]:
        args = {**ARGS, **options.pop("more", {}), "backend": options.pop("backend", "auto")}
        return self.run_module("masquerade", args, netns=self.node, **options)

    def talk(self, pods: tuple[str, str] = PODS) -> bool:
        """Whether the pods reach each other, both ways round."""
        pod, neighbour = pods
        return packets.ask(self.pod, neighbour) == pod and packets.ask(self.neighbour, pod) == neighbour

    def silent(self, pods: tuple[str, str] = PODS) -> bool:
        """Whether neither pod reaches the other."""
        pod, neighbour = pods
        return packets.silent(self.pod, neighbour) and packets.silent(self.neighbour, pod)

    def places(self, half: Half = V4) -> list[str]:
        """Where rules of ours are, by the commands of each."""
        return places(self.node, half)


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
    assert site.silent()
    predicted = site.converge(check=True)
    result = site.converge()
    assert (predicted["backend"], result["backend"]) == (kind, kind)
    assert "FORWARD" in result["reason"] and ("DROP" in result["reason"] or "REJECT" in result["reason"])
    assert site.talk() and site.places() == [kind]
    for _again in range(2):
        again = site.converge()
        assert not again["changed"] and again["backend"] == kind
    assert "warnings" not in result and "warnings" not in again


@pytest.mark.parametrize("wall", WALLS)
def test_pods_get_through_where_ip6tables_drops(site: Site, kind: str, wall: str) -> None:
    """Rules of IPv4 go along, and nothing drops them there."""
    for rule in WALLS[wall]:
        of_ipv6 = rule.replace("203.0.113.0/24", "2001:db8::/32").replace("icmp-host", "icmp6-adm")
        site.node.run(f"{V6.command(kind)} {of_ipv6}")
    assert site.converge()["backend"] == "nftables" and site.silent(PODS6)
    predicted = site.converge(more=ARGS6, check=True)
    result = site.converge(more=ARGS6)
    assert (predicted["backend"], result["backend"]) == (kind, kind)
    assert "(IPv6)" in result["reason"] and "(IPv4)" not in result["reason"]
    assert site.talk(PODS6) and site.talk() and site.places(V4) == site.places(V6) == [kind]
    again = site.converge(more=ARGS6)
    assert not again["changed"] and "warnings" not in result and "warnings" not in again


def test_ip_versions_that_drop_in_different_kinds(site: Site) -> None:
    """No backend is right for both. One gets through, and a word tells how the other one would."""
    site.node.run("iptables-nft -P FORWARD DROP")
    site.node.run("ip6tables-legacy -P FORWARD DROP")
    result = site.converge(more=ARGS6)
    assert result["backend"] == "iptables-nft" and site.places(V4) == site.places(V6) == ["iptables-nft"]
    assert site.talk() and site.silent(PODS6)
    warning = warned(result)
    assert "iptables-legacy (IPv6): chain FORWARD of table filter drops pod packets" in warning
    assert "accept fd00:10:244::/48 as source and as destination there" in warning
    for option in ("-s", "-d"):
        site.node.run(f"ip6tables-legacy -A FORWARD {option} fd00:10:244::/48 -j ACCEPT")
    assert site.talk() and site.talk(PODS6)


def test_kind_that_drops_both_ip_versions_goes_before_that_with_one(site: Site) -> None:
    for command in ("iptables-nft", "iptables-legacy", "ip6tables-legacy"):
        site.node.run(f"{command} -P FORWARD DROP")
    result = site.converge(more=ARGS6)
    assert result["backend"] == "iptables-legacy" and site.talk(PODS6) and site.silent()
    assert "iptables-nft: chain FORWARD" in warned(result)


def test_chain_of_nftables_that_drops_both_is_named_once(site: Site) -> None:
    site.node.run("nft add table inet firewall")
    site.node.run(["nft", "add chain inet firewall passing { type filter hook forward priority 10; policy drop; }"])
    warning = warned(site.converge(more=ARGS6))
    assert "accept 10.244.0.0/16, fd00:10:244::/48 as source and as destination there" in warning
    site.node.run("nft delete table inet firewall")
    site.node.run("nft add table ip6 firewall")
    site.node.run(["nft", "add chain ip6 firewall passing { type filter hook forward priority 10; policy drop; }"])
    assert "accept fd00:10:244::/48 as source" in warned(site.converge(more=ARGS6))
    assert "warnings" not in site.converge()


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
    assert site.silent()
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
    assert site.silent()
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
    assert site.silent()
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
    assert site.silent()


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
