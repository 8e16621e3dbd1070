# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What packets of pods look like on the other side of a node with module masquerade's rules."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces

ARGS = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24"}
POD, REMOTE_POD, NODE, OUTSIDE, STRANGER = "10.244.1.2", "10.244.2.2", "192.0.2.11", "192.0.2.9", "198.51.100.2"
# What the node masquerades with on the link of the remote pod.
REMOTE_GATEWAY = "10.244.2.1"
MARKED, MARKED_MORE = 7778, 7779
MULTI = {"iptables-nft": "xtables-nft-multi", "iptables-legacy": "xtables-legacy-multi"}


@dataclasses.dataclass(frozen=True)
class Site:
    """Around a node: a pod of its own, a pod of another node, and two hosts that are not pods."""

    pod: Namespace
    remote_pod: Namespace
    stranger: Namespace
    node: Namespace
    outside: Namespace


@pytest.fixture
def site(netns: Namespaces) -> Iterator[Site]:
    made = Site(netns("pod"), netns("remote"), netns("stranger"), netns("node"), netns("outside"))
    node, outside = made.node, made.outside
    for inner, name, address, gateway in (
        (made.pod, "p0", POD, "10.244.1.1"),
        (made.remote_pod, "r0", REMOTE_POD, REMOTE_GATEWAY),
        (made.stranger, "s0", STRANGER, "198.51.100.1"),
    ):
        netns.link(inner, "e0", node, name)
        inner.run(f"ip address add {address}/24 dev e0")
        node.run(f"ip address add {gateway}/24 dev {name}")
        inner.run(f"ip route add default via {gateway}")
    netns.link(node, "u0", outside, "e0")
    node.run(f"ip address add {NODE}/24 dev u0")
    outside.run(f"ip address add {OUTSIDE}/24 dev e0")
    outside.run(f"ip route add default via {NODE}")
    node.run("sysctl -qw net.ipv4.ip_forward=1")
    with packets.server(outside), packets.server(made.pod), packets.server(made.remote_pod):
        yield made


@pytest.fixture(params=["nftables", "iptables-nft", "iptables-legacy"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The value for the module; for iptables, command iptables is of that kind."""
    name: str = request.param
    if name in MULTI:
        command = shutil.which(MULTI[name])
        if command is None:
            pytest.skip(f"{name} is not installed")
        directory = tmp_path / "bin"
        directory.mkdir()
        for suffix in ("", "-save", "-restore"):
            (directory / f"iptables{suffix}").symlink_to(command)
        monkeypatch.setenv("PATH", str(directory), prepend=":")
    return name.split("-")[0]


def test_addresses_seen(site: Site, backend: str, run_module: RunModule) -> None:
    assert packets.ask(site.pod, OUTSIDE) == POD
    run_module("masquerade", {**ARGS, "backend": backend}, netns=site.node)
    assert packets.ask(site.pod, OUTSIDE) == NODE
    assert packets.ask(site.pod, REMOTE_POD) == POD
    assert packets.ask(site.stranger, POD) == STRANGER
    assert packets.ask(site.stranger, REMOTE_POD) == REMOTE_GATEWAY
    assert packets.ask(site.stranger, OUTSIDE) == STRANGER
    run_module("masquerade", {"state": "absent"}, netns=site.node)
    assert packets.ask(site.pod, OUTSIDE) == POD


def test_marked_packets_are_left_alone(site: Site, backend: str, run_module: RunModule) -> None:
    """The mark may have other bits set as well."""
    run_module("masquerade", {**ARGS, "backend": backend}, netns=site.node)
    site.node.run(["nft", "add table ip marks"])
    site.node.run(["nft", "add chain ip marks prerouting { type filter hook prerouting priority -150; }"])
    for port, mark in ((MARKED, "0x4000"), (MARKED_MORE, "0xc001")):
        site.node.run(["nft", f"add rule ip marks prerouting udp dport {port} meta mark set {mark}"])
        with packets.server(site.outside, port):
            assert packets.ask(site.pod, OUTSIDE, port=port) == POD
    assert packets.ask(site.pod, OUTSIDE) == NODE


def test_forward_rules_overrule_the_policy(site: Site, backend: str, run_module: RunModule) -> None:
    if backend == "nftables":
        pytest.skip("no chain of nftables overrules another one's drop")
    site.node.run("iptables -P FORWARD DROP")
    run_module("masquerade", {**ARGS, "backend": backend, "forward": False}, netns=site.node)
    assert packets.ask(site.pod, OUTSIDE) is None
    run_module("masquerade", {**ARGS, "backend": backend}, netns=site.node)
    assert packets.ask(site.pod, OUTSIDE) == NODE
    assert packets.ask(site.stranger, POD) == STRANGER
    assert packets.ask(site.stranger, OUTSIDE) is None
