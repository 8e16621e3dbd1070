# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What packets of pods look like on the other side of a node with module masquerade's rules."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import guest, packets
from tests.kernel.conftest import RunModule
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import FILTERS, MULTI, V4, V6, Filter, Half, lacking, make_default

MARKED, MARKED_MORE = 7778, 7779
#: Kernel modules of the guest.
MODULES = (
    *("ipv6", "veth", "nf_conntrack", "xt_MASQUERADE", "xt_mark", "xt_comment"),
    *(f"{family}table_{table}" for family in ("ip", "ip6") for table in ("nat", "filter")),
)


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Of one IP version. The gateways are the node's addresses on the links."""

    half: Half
    length: int
    pod: str
    pod_gateway: str
    remote_pod: str
    remote_gateway: str
    stranger: str
    stranger_gateway: str
    node: str
    outside: str


V4_ADDRESSES = Addresses(
    V4,
    24,
    *("10.244.1.2", "10.244.1.1"),
    *("10.244.2.2", "10.244.2.1"),
    *("198.51.100.2", "198.51.100.1"),
    *("192.0.2.11", "192.0.2.9"),
)
V6_ADDRESSES = Addresses(
    V6,
    64,
    *("fd00:10:244:1::2", "fd00:10:244:1::1"),
    *("fd00:10:244:2::2", "fd00:10:244:2::1"),
    *("2001:db8:1::2", "2001:db8:1::1"),
    *("2001:db8::11", "2001:db8::9"),
)


@dataclasses.dataclass(frozen=True)
class Site:
    """Around a node: a pod of its own, a pod of another node, and two hosts that are not pods."""

    at: Addresses
    pod: Namespace
    remote_pod: Namespace
    stranger: Namespace
    node: Namespace
    outside: Namespace


@pytest.fixture(params=[V4_ADDRESSES, V6_ADDRESSES], ids=["IPv4", "IPv6"])
def site(request: pytest.FixtureRequest, netns: Namespaces) -> Iterator[Site]:
    at: Addresses = request.param
    made = Site(at, netns("pod"), netns("remote"), netns("stranger"), netns("node"), netns("outside"))
    node, outside = made.node, made.outside
    for namespace in netns.made:
        namespace.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
    for inner, name, address, gateway in (
        (made.pod, "p0", at.pod, at.pod_gateway),
        (made.remote_pod, "r0", at.remote_pod, at.remote_gateway),
        (made.stranger, "s0", at.stranger, at.stranger_gateway),
    ):
        netns.link(inner, "e0", node, name)
        inner.run(f"ip address add {address}/{at.length} dev e0")
        node.run(f"ip address add {gateway}/{at.length} dev {name}")
        inner.run(f"ip route add default via {gateway}")
    netns.link(node, "u0", outside, "e0")
    node.run(f"ip address add {at.node}/{at.length} dev u0")
    outside.run(f"ip address add {at.outside}/{at.length} dev e0")
    outside.run(f"ip route add default via {at.node}")
    node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    with packets.server(outside), packets.server(made.pod), packets.server(made.remote_pod):
        yield made


@pytest.fixture(params=FILTERS)
def backend(
    request: pytest.FixtureRequest, netns: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Filter:
    name: str = request.param
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(reason)
    if name in MULTI:
        make_default(tmp_path / "bin", name)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return Filter(name)


def test_addresses_in_a_kernel_without_nat_of_nftables(tmp_path: Path) -> None:
    """Only iptables-legacy works there, and tests without that would be skipped, not passed."""
    if guest.INSIDE in os.environ:
        pytest.skip("runs a guest")
    names = ("IPv4-nftables", "IPv6-iptables-legacy")
    tests = [f"tests/kernel/test_masquerade_packets.py::test_addresses_seen[{name}]" for name in names]
    output = guest.run_tests(UserModeLinux(), tests, MODULES, tmp_path)
    assert "1 passed, 1 skipped" in output and "the kernel has no NAT of nftables" in output, output


def test_addresses_seen(site: Site, backend: Filter, run_module: RunModule) -> None:
    at, args = site.at, backend.args_for(site.at.half)
    assert packets.ask(site.pod, at.outside) == at.pod
    run_module("masquerade", args, netns=site.node)
    assert packets.ask(site.pod, at.outside) == at.node
    assert packets.ask(site.pod, at.remote_pod) == at.pod
    assert packets.ask(site.stranger, at.pod) == at.stranger
    assert packets.ask(site.stranger, at.remote_pod) == at.remote_gateway
    assert packets.ask(site.stranger, at.outside) == at.stranger
    run_module("masquerade", {"state": "absent"}, netns=site.node)
    assert packets.ask(site.pod, at.outside) == at.pod


def test_marked_packets_are_left_alone(site: Site, backend: Filter, run_module: RunModule) -> None:
    """The mark may have other bits set as well."""
    at, family = site.at, site.at.half.family
    run_module("masquerade", backend.args_for(at.half), netns=site.node)
    site.node.run(["nft", f"add table {family} marks"])
    site.node.run(["nft", f"add chain {family} marks prerouting {{ type filter hook prerouting priority -150; }}"])
    for port, mark in ((MARKED, "0x4000"), (MARKED_MORE, "0xc001")):
        site.node.run(["nft", f"add rule {family} marks prerouting udp dport {port} meta mark set {mark}"])
        with packets.server(site.outside, port):
            assert packets.ask(site.pod, at.outside, port=port) == at.pod
    assert packets.ask(site.pod, at.outside) == at.node


def test_forward_rules_overrule_the_policy(site: Site, backend: Filter, run_module: RunModule) -> None:
    if backend.name == "nftables":
        pytest.skip("no chain of nftables overrules another one's drop")
    at, args = site.at, backend.args_for(site.at.half)
    site.node.run(f"{at.half.command(backend.name)} -P FORWARD DROP")
    run_module("masquerade", {**args, "forward": False}, netns=site.node)
    assert packets.silent(site.pod, at.outside)
    run_module("masquerade", args, netns=site.node)
    assert packets.ask(site.pod, at.outside) == at.node
    assert packets.ask(site.stranger, at.pod) == at.stranger
    assert packets.silent(site.stranger, at.outside)
