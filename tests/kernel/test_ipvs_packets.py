# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What virtual services do with packets: a client behind one interface of the node, servers behind another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import packets, tcp_flows
from tests.kernel.ipvs_lan import Lan
from tests.kernel.ipvs_nodes import DELETED, Args, apply_to, server, service
from tests.kernel.namespaces import Namespaces

pytestmark = pytest.mark.usefixtures("ipvs")


@contextlib.contextmanager
def serving(lan: Lan, protocol: str = "tcp", port: int = tcp_flows.PORT) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number, namespace in enumerate(lan.servers, 1):
            stack.enter_context(tcp_flows.server(namespace, f"s{number}", protocol, port))
        yield


def two(address: str, **more: Any) -> Args:
    prefix = "fd00:244::1" if ":" in address else "10.244.0.1"
    return service(address, 80, server(f"{prefix}1", 8080), server(f"{prefix}2", 8080), **more)


def test_round_robin_over_both_ip_versions(netns: Namespaces, tmp_path: Path) -> None:
    lan = Lan(netns, 2)
    document = {"services": [two("10.96.0.80"), two("fd00:96::80")]}
    with serving(lan):
        assert tcp_flows.ask(lan.client, "10.96.0.80", wait=2) == [""]
        apply_to(tmp_path, lan.node, document)
        for address in ("10.96.0.80", "fd00:96::80"):
            answers = tcp_flows.ask(lan.client, address, times=8)
            assert sorted(answers) == ["s1"] * 4 + ["s2"] * 4 and answers[0] != answers[1]
        assert sorted(tcp_flows.ask(lan.node, "10.96.0.80", times=4)) == ["s1"] * 2 + ["s2"] * 2
        apply_to(tmp_path, lan.node, {"services": [two("10.96.0.80", scheduler="wrr")]})
        assert tcp_flows.ask(lan.client, "fd00:96::80", wait=2) == [""]
        weighted = service("10.96.0.80", 80, server("10.244.0.11", 8080, weight=3), server("10.244.0.12", 8080))
        apply_to(tmp_path, lan.node, {"services": [{**weighted, "scheduler": "wrr"}]})
        assert sorted(tcp_flows.ask(lan.client, "10.96.0.80", times=8)) == ["s1"] * 6 + ["s2"] * 2
        apply_to(tmp_path, lan.node, DELETED)
        assert tcp_flows.ask(lan.client, "10.96.0.80", wait=2) == [""]


def test_udp_keeps_the_address_of_the_client(netns: Namespaces, tmp_path: Path) -> None:
    lan = Lan(netns, 2)
    services = [{**two(address), "protocol": "udp", "port": 53} for address in ("10.96.0.53", "fd00:96::53")]
    for each in services:
        each["servers"] = [{**target, "port": packets.PORT} for target in each["servers"]]
    apply_to(tmp_path, lan.node, {"services": services})
    with packets.server(lan.servers[0]), packets.server(lan.servers[1]):
        assert packets.ask(lan.client, "10.96.0.53", port=53) == "192.0.2.9"
        assert packets.ask(lan.client, "fd00:96::53", port=53) == "2001:db8::9"


def test_sctp(netns: Namespaces, tmp_path: Path) -> None:
    lan = Lan(netns, 2)
    for namespace in lan.servers:
        # The kernel of the guest lacks what cookies are signed with.
        namespace.run(["sh", "-c", "echo none > /proc/sys/net/sctp/cookie_hmac_alg"])
    apply_to(tmp_path, lan.node, {"services": [two("10.96.0.80", protocol="sctp")]})
    with serving(lan, "sctp"):
        answers = tcp_flows.ask(lan.client, "10.96.0.80", times=4, protocol="sctp")
    assert sorted(answers) == ["s1"] * 2 + ["s2"] * 2


def test_clients_stay_with_their_server(netns: Namespaces, tmp_path: Path) -> None:
    lan = Lan(netns, 2)
    lan.client.run("ip address add 192.0.2.200/24 dev eth0")
    services = [two("10.96.0.80", persistence=60), two("10.96.0.81", persistence=60, persistence_netmask=24)]
    apply_to(tmp_path, lan.node, {"services": services})

    def reached(address: str, source: str) -> str:
        (name,) = set(tcp_flows.ask(lan.client, address, times=3, source=source))
        return name

    with serving(lan):
        assert {reached("10.96.0.80", source) for source in ("192.0.2.9", "192.0.2.200")} == {"s1", "s2"}
        assert len({reached("10.96.0.81", source) for source in ("192.0.2.9", "192.0.2.200")}) == 1


TUNNELS: dict[str, Args] = {
    "direct": {"forwarding": "direct"},
    "ipip": {"forwarding": "tunnel"},
    "gre": {"forwarding": "tunnel", "tunnel": {"type": "gre"}},
    "gue": {"forwarding": "tunnel", "tunnel": {"type": "gue", "port": 6080}},
}
#: What takes packets out of a tunnel on a server. Every namespace has tunl0 and gre0 with the modules of the kernel.
DECAPSULATION = {
    "direct": [],
    "ipip": ["ip link set tunl0 up"],
    "gre": ["ip link set gre0 up"],
    "gue": ["ip link set tunl0 up", "ip fou add port 6080 gue"],
}


@pytest.mark.parametrize("method", TUNNELS)
def test_packets_reach_servers_as_they_are(method: str, netns: Namespaces, tmp_path: Path) -> None:
    """The servers have the service's address themselves, and answer past the node."""
    lan = Lan(netns, 2)
    for namespace in lan.servers:
        for command in ("ip address add 10.97.0.80/32 dev lo", *DECAPSULATION[method]):
            namespace.run(command)
        namespace.run(["sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done"])
        # Only the node answers for it.
        namespace.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore"])
    servers = [server(f"10.244.0.1{number}", **TUNNELS[method]) for number in (1, 2)]
    apply_to(tmp_path, lan.node, {"services": [service("10.97.0.80", 80, *servers)]})
    with serving(lan, port=80):
        assert sorted(tcp_flows.ask(lan.client, "10.97.0.80", times=4)) == ["s1"] * 2 + ["s2"] * 2


def test_packets_with_a_mark(netns: Namespaces, tmp_path: Path) -> None:
    """Of one mark, each IP version has a service of its own; the addresses are the packet filter's matter."""
    lan = Lan(netns, 2)
    for command in ("iptables-legacy", "ip6tables-legacy"):
        lan.node.run(f"{command} -t mangle -A PREROUTING -p tcp --dport 80 -j MARK --set-mark 7")
    lan.node.run("ip route add local 10.96.7.0/24 dev lo")
    lan.node.run("ip -6 route add local fd00:96::7:0/112 dev lo")
    marked = {"mark": 7, "servers": [server("10.244.0.11", 8080)]}
    marked6 = {"mark": 7, "family": "ipv6", "servers": [server("fd00:244::12", 8080)]}
    apply_to(tmp_path, lan.node, {"services": [marked, marked6]})
    with serving(lan):
        assert tcp_flows.ask(lan.client, "10.96.7.33", times=2) == ["s1"] * 2
        assert tcp_flows.ask(lan.client, "fd00:96::7:1", times=2) == ["s2"] * 2


def test_server_over_its_limit_gets_no_more(netns: Namespaces, tmp_path: Path) -> None:
    lan = Lan(netns, 2)
    servers = server("10.244.0.11", 8080, connections_max=1), server("10.244.0.12", 8080)
    apply_to(tmp_path, lan.node, {"services": [service("10.96.0.80", 80, *servers)]})
    with serving(lan):
        flow = tcp_flows.Download(lan.client, "10.96.0.80", 60)
        others = [tcp_flows.ask(lan.client, "10.96.0.80")[0] for _time in range(3)]
        flow.end()
    assert others.count("s2") >= 2
