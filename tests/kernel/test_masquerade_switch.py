# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Pods that talk to the outside while module masquerade moves its rules: nothing arrives with a pod's address, and
nothing gets lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import fresh_flows, packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import FILTERS, HALVES, MULTI, V4, V6, Filter, Half, lacking, make_default, places

#: By IP version: pod, its gateway, the node's address outside, and somebody there.
ADDRESSES = {
    V4: ("10.244.1.2/24", "10.244.1.1/24", "192.0.2.11/24", "192.0.2.9/24"),
    V6: ("fd00:10:244:1::2/64", "fd00:10:244:1::1/64", "2001:db8::11/64", "2001:db8::9/64"),
}
NODE = {half: ADDRESSES[half][2].partition("/")[0] for half in HALVES}
OUTSIDE = {half: ADDRESSES[half][3].partition("/")[0] for half in HALVES}


class Site:
    """A node with a pod, and a host outside that knows the way to the pod: it answers what comes under any address."""

    def __init__(self, netns: Namespaces, run_module: RunModule, commands: Path) -> None:
        self.node, self.pod, self.outside = netns("node"), netns("pod"), netns("outside")
        self.run_module, self.commands = run_module, commands
        for namespace in (self.node, self.pod, self.outside):
            # Neighbors are not asked for from an address that may still be a duplicate.
            namespace.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        netns.link(self.pod, "e0", self.node, "p0")
        netns.link(self.node, "u0", self.outside, "e0")
        for pod, gateway, node, outside in ADDRESSES.values():
            for namespace, device, address in (
                (self.pod, "e0", pod),
                (self.node, "p0", gateway),
                (self.node, "u0", node),
                (self.outside, "e0", outside),
            ):
                namespace.run(f"ip address add {address} dev {device}")
            self.pod.run(f"ip route add default via {gateway.partition('/')[0]}")
            self.outside.run(f"ip route add default via {node.partition('/')[0]}")
        self.node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def converge(self, name: str, halves: Sequence[Half] = HALVES, **more: Any) -> None:
        if name in MULTI:
            make_default(self.commands, name)
        args = {**Filter(name).args_for(*halves), **more}
        assert self.run_module("masquerade", args, netns=self.node)["backend"] == name
        for half in HALVES:
            assert places(self.node, half) == ([name] if half in halves else [])

    @contextlib.contextmanager
    def nothing_changes(self, *halves: Half) -> Iterator[None]:
        """Flows of the IP versions go through all the while, under the node's address."""
        with contextlib.ExitStack() as stack:
            seen = {half: stack.enter_context(fresh_flows.flows(self.pod, OUTSIDE[half])) for half in halves}
            yield
        for half, counts in seen.items():
            for of_kind in (counts.lasting, counts.fresh):
                assert set(of_kind) == {NODE[half]}, counts
                assert of_kind[NODE[half]] > 100, counts


@pytest.fixture
def site(netns: Namespaces, run_module: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    made = Site(netns, run_module, tmp_path / "bin")
    with packets.server(made.outside):
        for half in HALVES:
            # All neighbors are known from here on.
            assert packets.ask(made.pod, OUTSIDE[half])
        yield made


def usable(netns: Namespaces) -> list[str]:
    found = [name for name in FILTERS if not lacking(netns("can"), name)]
    if len(found) < 2:
        pytest.skip(f"this kernel has {', '.join(found) or 'no packet filter'} only")
    return found


def join(node: Namespace, kind: str) -> None:
    """A rule of somebody else that draws ours to this kind of iptables."""
    node.run(f"{V4.command(kind)} -I FORWARD -s 203.0.113.0/24 -j DROP")


def leave(node: Namespace, kind: str) -> None:
    node.run(f"{V4.command(kind)} -D FORWARD -s 203.0.113.0/24 -j DROP")


def test_stream_tells_of_packets_without_masquerade(site: Site) -> None:
    """Else the tests below would be worth nothing: without rules, pods' addresses are seen."""
    for half in HALVES:
        pod = ADDRESSES[half][0].partition("/")[0]
        with fresh_flows.flows(site.pod, OUTSIDE[half]) as seen:
            assert packets.ask(site.pod, OUTSIDE[half]) == pod
        assert set(seen.fresh) == set(seen.lasting) == {pod}


def test_switch_of_backend_has_no_gap(site: Site, netns: Namespaces) -> None:
    """From each backend to each other one and back, both IP versions at once."""
    names = usable(netns)
    moves = [(old, new) for old in names for new in names if old != new]
    site.converge(names[0])
    for old, new in moves:
        with contextlib.ExitStack() as stack:
            if old in MULTI:
                join(site.node, old)
                stack.callback(leave, site.node, old)
            site.converge(old)
        if new in MULTI:
            join(site.node, new)
        with site.nothing_changes(V4, V6):
            site.converge(new)
        if new in MULTI:
            leave(site.node, new)


@pytest.mark.parametrize("name", FILTERS)
def test_one_half_comes_and_goes_without_a_gap_in_the_other(name: str, site: Site, netns: Namespaces) -> None:
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(reason)
    for stays, other in ((V4, V6), (V6, V4)):
        site.converge(name, [stays])
        with site.nothing_changes(stays):
            site.converge(name, HALVES)
            assert packets.ask(site.pod, OUTSIDE[other]) == NODE[other]
            site.converge(name, [stays])


@pytest.mark.parametrize("name", FILTERS)
def test_changed_rules_have_no_gap(name: str, site: Site, netns: Namespaces) -> None:
    """Another network of pods, the forward rules gone and back, rules of somebody in our chains."""
    reason = lacking(netns("can"), name)
    if reason:
        pytest.skip(reason)
    site.converge(name)
    with site.nothing_changes(V4, V6):
        site.converge(name, network="10.244.0.0/17", network6="fd00:10:244::/60")
        site.converge(name, forward=False)
        site.converge(name)
        for half in HALVES:
            if name == "nftables":
                site.node.run(f"nft add rule {half.family} fairlead postrouting counter")
            else:
                site.node.run(f"{half.command(name)} -t nat -A FAIRLEAD-POSTRTG -j RETURN")
        site.converge(name)
