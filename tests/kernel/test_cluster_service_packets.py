# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services as clients and endpoints see them: who answers, and whose address the endpoint sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import guest
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import lacking, make_default
from tests.kernel.service_flows import REFUSED, SILENT, UNREACHABLE, Servers, ask, asking, burst, echo, has_sctp, spread
from tests.kernel.service_site import (
    ABSENT,
    CLIENT,
    CLIENT6,
    NODE,
    NODE6,
    P1,
    P1_6,
    TO_P1,
    TO_P1_6,
    TO_P2,
    TO_P2_6,
    Site,
    apply_to,
    document,
    everywhere,
    snapshot,
)
from tests.manifests import endpoint, endpoint_slice

pytestmark = pytest.mark.usefixtures("ipvs")
LOCAL = {"externalTrafficPolicy": "Local"}
#: What both pods see of a client that the node masquerades.
MASQUERADED = [f"p1 {TO_P1}", f"p2 {TO_P2}"]
MASQUERADED6 = [f"p1 {TO_P1_6}", f"p2 {TO_P2_6}"]
#: A port by protocol.
PORTS = {"tcp": 80, "udp": 53}
NODE_PORTS = {"tcp": 30000, "udp": 31000}
#: The second node's.
OTHER, OTHER6 = "192.0.2.12", "2001:db8::12"
HOST_PORT = 9100


@pytest.fixture
def site(netns: Namespaces) -> Iterator[Site]:
    made = Site(netns)
    if guest.INSIDE in os.environ and has_sctp():
        for pod in (made.p1, made.p2):
            # User-mode Linux lacks what cookies are signed with.
            pod.run(["sh", "-c", "echo none > /proc/sys/net/sctp/cookie_hmac_alg"])
    with Servers() as servers:
        for name, pod in (("p1", made.p1), ("p2", made.p2)):
            for protocol in ("tcp", "udp", *(["sctp"] if has_sctp() else [])):
                servers.add(pod, name, protocol)
        servers.add(made.n1, "n1", "tcp", HOST_PORT)
        servers.add(made.n1, "n1", "udp", HOST_PORT)
        yield made


def test_every_kind_of_service(way: str, site: Site, tmp_path: Path) -> None:
    assert ask(site.client, "10.96.0.80", wait=0.5) in (UNREACHABLE, SILENT)
    services = [*everywhere("web", 80), *everywhere("local", 81, **LOCAL)]
    apply_to(tmp_path, site.n1, document(way, *services))
    for protocol, port in PORTS.items():
        check_cluster_ips(site, protocol, port)
        check_outside(site, protocol, port, NODE_PORTS[protocol])
        check_local(site, protocol, port, NODE_PORTS[protocol])


def check_cluster_ips(site: Site, protocol: str, port: int) -> None:
    """Pods keep their address, but for one that reaches itself; the node has none to keep."""
    for address, keeping, masqueraded in (
        ("10.96.0.80", [f"p1 {TO_P1}", f"p2 {P1}"], MASQUERADED),
        ("fd00:10:96::80", [f"p1 {TO_P1_6}", f"p2 {P1_6}"], MASQUERADED6),
    ):
        assert spread(site.p1, address, port, protocol) == keeping, (protocol, address)
        assert spread(site.n1, address, port, protocol) == masqueraded, (protocol, address)
        assert spread(site.client, address, port, protocol) == masqueraded, (protocol, address)


def check_outside(site: Site, protocol: str, port: int, base: int) -> None:
    for addresses, masqueraded in (
        (((NODE, base + 80), ("198.51.100.80", port), ("203.0.113.80", port)), MASQUERADED),
        (((NODE6, base + 80), ("2001:db8:80::80", port), ("2001:db8:80:1::80", port)), MASQUERADED6),
    ):
        for address, number in addresses:
            for client in (site.client, site.n1, site.p1):
                assert spread(client, address, number, protocol) == masqueraded, (protocol, address, client.name)


def check_local(site: Site, protocol: str, port: int, base: int) -> None:
    """Only the endpoint of the node, which sees the client."""
    for addresses, client, own in (
        (((NODE, base + 81), ("198.51.100.81", port), ("203.0.113.81", port)), CLIENT, TO_P1),
        (((NODE6, base + 81), ("2001:db8:80::81", port), ("2001:db8:80:1::81", port)), CLIENT6, TO_P1_6),
    ):
        for address, number in addresses:
            assert spread(site.client, address, number, protocol) == [f"p1 {client}"] * 2, (protocol, address)
            assert spread(site.p1, address, number, protocol) == [f"p1 {own}"] * 2, (protocol, address)
            assert all(each.startswith("p1 ") for each in spread(site.n1, address, number, protocol)), address


def test_sctp(way: str, site: Site, tmp_path: Path) -> None:
    if not has_sctp():
        assert guest.INSIDE not in os.environ, "the guest has no SCTP either"
        pytest.skip("this kernel has no SCTP; the test runs in a guest that has it")
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80, sctp=True)))
    assert spread(site.client, "10.96.0.80", 99, "sctp") == MASQUERADED
    assert spread(site.client, NODE, 32080, "sctp") == MASQUERADED
    assert spread(site.client, NODE6, 32080, "sctp") == MASQUERADED6


def test_all_are_masqueraded_where_asked_for(way: str, site: Site, tmp_path: Path) -> None:
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80), masquerade_all=True))
    assert spread(site.p1, "10.96.0.80") == MASQUERADED
    assert spread(site.p1, "fd00:10:96::80", 53, "udp") == MASQUERADED6
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80)))
    assert spread(site.p1, "10.96.0.80") == [f"p1 {TO_P1}", "p2 10.244.1.2"]


def test_a_service_address_has_nothing_but_its_ports(way: str, site: Site, tmp_path: Path) -> None:
    """What is no port of a service is refused at once, a port of the node too; an echo is answered."""
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80)))
    addresses = ("10.96.0.80", "fd00:10:96::80", "198.51.100.80", "2001:db8:80::80", "203.0.113.80")
    for client in (site.client, site.p1, site.n1):
        for address in addresses:
            for protocol, port in (("tcp", HOST_PORT), ("udp", HOST_PORT), ("tcp", 53), ("udp", 80)):
                assert ask(client, address, port, protocol) == REFUSED, (client.name, address, protocol, port)
            assert echo(client, address)
    assert ask(site.client, NODE, HOST_PORT) == f"n1 {CLIENT}"
    assert ask(site.client, NODE6, HOST_PORT, "udp") == f"n1 {CLIENT6}"


def test_nodes_are_reached_at_addresses_that_services_have_too(way: str, site: Site, tmp_path: Path) -> None:
    nodes = [NODE, NODE6, OTHER, OTHER6]
    services = everywhere("web", 80, externalIPs=nodes)
    apply_to(tmp_path, site.n1, document(way, *services, members=nodes))
    with Servers() as servers:
        servers.add(site.n2, "n2", "tcp", HOST_PORT)
        for client, seen, seen6 in ((site.n1, NODE, NODE6), (site.p1, P1, P1_6)):
            assert ask(client, OTHER, HOST_PORT) == f"n2 {seen}"
            assert ask(client, OTHER6, HOST_PORT) == f"n2 {seen6}"
    assert ask(site.client, NODE, HOST_PORT) == f"n1 {CLIENT}"
    for addresses, masqueraded in (((NODE, OTHER), MASQUERADED), ((NODE6, OTHER6), MASQUERADED6)):
        assert spread(site.client, addresses[0]) == masqueraded
        assert [spread(site.n1, address) for address in addresses] == [masqueraded] * 2


def test_source_ranges(way: str, site: Site, tmp_path: Path) -> None:
    """Others than the allowed get no answer from the balancer's address, and are served by all other ways."""
    for address in ("192.0.2.200/24", "2001:db8::200/64"):
        site.client.run(
            f"ip address add {address} dev eth0 nodad" if ":" in address else f"ip address add {address} dev eth0"
        )
    ranges = {"loadBalancerSourceRanges": [f"{CLIENT}/32", "198.18.0.0/15", f"{CLIENT6}/128"]}
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80, **ranges)))
    for balancer, allowed, other, external in (
        ("203.0.113.80", CLIENT, "192.0.2.200", "198.51.100.80"),
        ("2001:db8:80:1::80", CLIENT6, "2001:db8::200", "2001:db8:80::80"),
    ):
        for protocol, port in PORTS.items():
            assert ask(site.client, balancer, port, protocol, allowed)[:2] in ("p1", "p2")
            assert ask(site.client, balancer, port, protocol, other, wait=1) == SILENT
            assert ask(site.client, external, port, protocol, other)[:2] in ("p1", "p2")
        assert ask(site.client, balancer, 81, source=other) == REFUSED
        assert ask(site.p1, balancer, wait=1) == SILENT


def test_nobody_notices_that_other_services_come_and_go(way: str, site: Site, tmp_path: Path) -> None:
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80)))
    with asking(site.client, "10.96.0.80") as tcp, asking(site.client, NODE, 31080, "udp") as udp:
        for last in (81, 82):
            apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80), *everywhere("other", last)))
            assert spread(site.client, f"10.96.0.{last}") == MASQUERADED
        apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80)))
    assert (set(tcp), set(udp)) == (set(MASQUERADED), set(MASQUERADED)), (tcp, udp)
    assert ask(site.client, "10.96.0.82", wait=1) not in MASQUERADED


def test_change_of_backend_while_clients_ask(
    site: Site, netns: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections are masqueraded all the time, by the old rules or by the new ones."""
    for name in ("nftables", "iptables-nft"):
        reason = lacking(netns("can"), name)
        if reason:
            pytest.skip(f"{reason}; the test runs in a guest that has it")
    make_default(tmp_path / "bin", "iptables-nft")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    bare = snapshot(site.n1)
    apply_to(tmp_path, site.n1, document("nftables", *everywhere("web", 80)))
    wanted = snapshot(site.n1)
    with asking(site.client, "10.96.0.80") as tcp, asking(site.client, "fd00:10:96::80", 53, "udp") as udp:
        for way in ("iptables-nft", "nftables"):
            apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80)))
    assert (set(tcp), set(udp)) == (set(MASQUERADED), set(MASQUERADED6))
    assert snapshot(site.n1) == wanted
    apply_to(tmp_path, site.n1, ABSENT)
    assert snapshot(site.n1) == bare


#: Packets to the pods get others' marks before all rules of ours; after them is counted which marks they have.
MARKS = """
table ip probe {
    chain before { type filter hook prerouting priority -250; th dport { 53, 80 } meta mark set 0x14000; }
    chain after {
        type filter hook postrouting priority 300;
        oifname "eth0" th dport 8080 meta mark & 0xffffefff == 0x14000 counter comment "others"
        oifname "eth0" th dport 8080 meta mark & 0x1000 != 0 counter comment "ours"
    }
}
"""


def test_marks_of_others_stay_and_ours_goes(way: str, site: Site, tmp_path: Path, netns: Namespaces) -> None:
    """Ours is for this node alone, with none of it left on packets that go out, the later ones of a client too."""
    if lacking(netns("can"), "nftables"):
        pytest.skip("packets are counted by nftables, which this kernel has not")
    apply_to(tmp_path, site.n1, document(way, *everywhere("web", 80, (2,))))
    site.n1.run("nft -f -", data=MARKS)
    assert spread(site.client, "10.96.0.80") == MASQUERADED[1:] * 2
    burst(site.client, "10.96.0.80", 53, 5)
    packets = _counted(site.n1)
    assert packets["others"] > 10 and packets["ours"] == 0


#: The network of pods masquerades them on their way out. Made anew when it is there.
PODS = {
    "iptables-nft": "iptables-nft -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
    "nftables": """nft '
table ip pods
delete table ip pods
table ip pods {
    chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
    }
}'""",
}


def test_our_mark_goes_from_packets_that_others_would_masquerade(
    way: str, site: Site, tmp_path: Path, netns: Namespaces
) -> None:
    """Of a pod to a server outside the network of pods, whoever made rules last."""
    if way not in PODS or lacking(netns("can"), "nftables"):
        pytest.skip("packets are counted by nftables, which is not what holds this way's rules")
    site.n1.run(["sh", "-c", PODS[way]])
    web = everywhere("web", 80, ())
    port = {"name": "http", "protocol": "TCP", "port": 8080}
    outside = endpoint_slice(endpoint(CLIENT), of="web", suffix="out", ports=[port])
    apply_to(tmp_path, site.n1, document(way, *web, outside))
    site.n1.run(["sh", "-c", PODS[way]])
    site.n1.run("nft -f -", data=MARKS.replace("th dport { 53, 80 }", "th dport 80"))
    with Servers() as servers:
        servers.add(site.client, "client")
        assert spread(site.p1, "198.51.100.80", times=4) == [f"client {NODE}"] * 4
    packets = _counted(site.n1)
    assert packets["others"] > 10 and packets["ours"] == 0


def _counted(node: Namespace) -> dict[str, int]:
    """Packets, by the comments of the rules that count them."""
    listed = node.json("nft -j list chain ip probe after")["nftables"]
    rules = [each["rule"] for each in listed if "rule" in each]
    return {rule["comment"]: rule["expr"][-1]["counter"]["packets"] for rule in rules}
