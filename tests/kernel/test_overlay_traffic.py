# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Packets over the datapath that overlay_network builds: pods of three nodes, and what happens while peers change."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, joined_nodes, member, pod

MODULE = "overlay_network"
NUMBERS = (1, 2, 3)


@pytest.fixture
def cluster(netns: Namespaces, run_module: RunModule) -> tuple[list[Namespace], list[Namespace]]:
    """Three nodes that know each other, and a pod on each."""
    nodes = joined_nodes(netns, len(NUMBERS))
    for number, node in zip(NUMBERS, nodes, strict=True):
        run_module(MODULE, document(number, *NUMBERS), netns=node)
    return nodes, [pod(netns, node, number) for number, node in zip(NUMBERS, nodes, strict=True)]


def test_overlay_carries_pods_with_their_own_address_and_full_mtu(
    cluster: tuple[list[Namespace], list[Namespace]],
) -> None:
    _nodes, pods = cluster
    for here, there in itertools.permutations(range(3), 2):
        with packets.server(pods[there]):
            address, own = f"10.244.{there + 1}.2", f"10.244.{here + 1}.2"
            assert packets.ask(pods[here], address) == own
            assert packets.ask(pods[here], address, size=1450) == own
            assert packets.silent(pods[here], address, size=1451)


def test_overlay_carries_nodes_to_pods_and_back(cluster: tuple[list[Namespace], list[Namespace]]) -> None:
    nodes, pods = cluster
    with packets.server(pods[1]):
        assert packets.ask(nodes[0], "10.244.2.2") == "10.244.1.0"
    with packets.server(nodes[0]):
        assert packets.ask(pods[1], "10.244.1.0") == "10.244.2.2"


@pytest.mark.parametrize(
    "change",
    [
        lambda peers: peers.append(member(4)),
        lambda peers: peers.pop(),
        lambda peers: peers[1].update(mac="02:aa:bb:cc:dd:77"),
        lambda peers: peers[1].update(address="192.0.2.77"),
        lambda peers: peers[1].update(subnet="10.244.77.0/24"),
    ],
    ids=["added", "removed", "another mac", "another address", "another subnet"],
)
def test_overlay_no_peer_loses_a_packet_when_another_changes(
    cluster: tuple[list[Namespace], list[Namespace]], run_module: RunModule, change: Any
) -> None:
    nodes, pods = cluster
    args = document(1, 2, 3)
    change(args["peers"])
    with packets.server(pods[1]):
        assert packets.ask(pods[0], "10.244.2.2") == "10.244.1.2"
        with packets.stream(pods[0], "10.244.2.2") as counts:
            for _round in range(2):
                assert run_module(MODULE, args, netns=nodes[0])["changed"]
                assert run_module(MODULE, document(1, 2, 3), netns=nodes[0])["changed"]
    sent, answered = counts
    assert sent == answered > 20


def test_overlay_peer_with_another_mac_is_reached_again(
    cluster: tuple[list[Namespace], list[Namespace]], run_module: RunModule
) -> None:
    nodes, pods = cluster
    moved = {**member(2), "mac": "02:aa:bb:cc:dd:77"}
    run_module(MODULE, {"node": moved, "peers": [member(1), member(3)]}, netns=nodes[1])
    with packets.server(pods[1]):
        assert packets.silent(pods[0], "10.244.2.2")
        run_module(MODULE, {"node": member(1), "peers": [moved, member(3)]}, netns=nodes[0])
        assert packets.ask(pods[0], "10.244.2.2") == "10.244.1.2"


def test_overlay_under_another_vni_and_port_carries_pods(
    cluster: tuple[list[Namespace], list[Namespace]], run_module: RunModule
) -> None:
    nodes, pods = cluster
    for number, node in zip(NUMBERS, nodes, strict=True):
        run_module(MODULE, document(number, *NUMBERS, backend={"vni": 77, "port": 4789}), netns=node)
    with packets.server(pods[2]):
        assert packets.ask(pods[0], "10.244.3.2", size=1450) == "10.244.1.2"


def test_overlay_removed_everywhere_carries_nothing(
    cluster: tuple[list[Namespace], list[Namespace]], run_module: RunModule
) -> None:
    nodes, pods = cluster
    with packets.server(pods[1]):
        assert packets.ask(pods[0], "10.244.2.2") == "10.244.1.2"
        run_module(MODULE, {"state": "deleted"}, netns=nodes[0])
        assert packets.silent(pods[0], "10.244.2.2")
