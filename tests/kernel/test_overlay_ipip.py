# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Backend ipip of overlay_network. Where this kernel has no ipip, the tests run in a User-mode Linux that has it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import PrerequisiteError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import Overlay, parse_overlay
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay_forms import described
from tests.kernel import guest, packets
from tests.kernel.conftest import RunModule
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, joined_nodes, lone_node, pod, snapshot
from tests.kernel.test_overlay_undo import inside, no_runner

MODULE = "overlay_network"
IPIP: dict[str, Any] = {"type": "ipip"}
DIRECT: dict[str, Any] = {"type": "ipip", "direct_routing": True}
DELETE = {"state": "deleted"}
#: Kernel modules of the guest; AF_INET6 sockets of the echo server need ipv6.
MODULES = ("ipv6", "veth", "bridge", "vxlan", "ipip")


def has_ipip(node: Namespace) -> bool:
    made = node.run("ip link add probe type ipip local 198.51.100.77", check=False).returncode == 0
    if made:
        node.run("ip link del probe")
    return made


@pytest.fixture
def ipip(netns: Namespaces) -> None:
    if not has_ipip(netns("probe")):
        assert guest.INSIDE not in os.environ, "the guest has no ipip either"
        pytest.skip("this kernel has no ipip; the test runs in a guest that has it")


def test_ipip_in_a_kernel_that_has_it(netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_ipip(netns("probe")):
        pytest.skip("the other tests of this file have run in this kernel")
    output = guest.run_tests(UserModeLinux(), ["tests/kernel/test_overlay_ipip.py"], MODULES, tmp_path)
    counts = re.search(r"(\d+) passed, 1 skipped", output)
    assert counts is not None and int(counts[1]) >= 6, output


def args(backend: dict[str, Any], own: int, *peers: int, **more: Any) -> dict[str, Any]:
    return document(own, *peers, backend=backend, **more)


Apply = Callable[[Namespace, dict[str, Any]], Outcome]


@pytest.fixture
def apply(monkeypatch: pytest.MonkeyPatch) -> Apply:
    """What the module does, without starting a process for it, which takes a guest more than a second."""
    saved: dict[str, Overlay] = {}

    def run(node: Namespace, document: dict[str, Any]) -> Outcome:
        earlier = [saved[node.name]] if node.name in saved else []
        monkeypatch.setattr(overlay_network, "_earlier_overlays", lambda *_: earlier)
        with inside(node):
            outcome = overlay_network.converge(document, False, no_runner)
        if "node" in document:
            saved[node.name] = parse_overlay(document)
        return outcome

    return run


def bring(apply: Apply, nodes: list[Namespace], backend: dict[str, Any]) -> None:
    for number, node in enumerate(nodes, 1):
        apply(node, args(backend, number, 1, 2))


def routes(node: Namespace) -> list[str]:
    return [line.strip() for line in node.out("ip route show dev flannel.ipip").splitlines()]


@pytest.mark.usefixtures("ipip")
def test_ipip_is_flannels_device_and_routes(
    netns: Namespaces, run_module: RunModule, apply: Apply, tmp_path: Path
) -> None:
    node = lone_node(netns)
    before, env = snapshot(node), tmp_path / "subnet.env"
    arguments = args(IPIP, 1, 2, subnet_env={"path": str(env), "ipmasq": True})
    result = run_module(MODULE, arguments, netns=node)
    assert (result["device"], result["mtu"]) == ("flannel.ipip", 1480)
    link = node.out("ip -d link show flannel.ipip")
    assert "mtu 1480 qdisc noqueue" in link and "LOWER_UP" in link
    assert "link/ipip 192.0.2.1 brd 0.0.0.0" in link
    assert "remote any local 192.0.2.1 ttl inherit nopmtudisc" in link
    assert "inet 10.244.1.0/32 scope global flannel.ipip\n" in node.out("ip -4 address show dev flannel.ipip")
    assert routes(node) == ["10.244.2.0/24 nhid 1073741952 via 192.0.2.2 onlink"]
    assert "FLANNEL_MTU=1480\n" in env.read_text()
    assert not apply(node, arguments).changed
    apply(node, {**arguments, "nexthop_objects": False})
    assert routes(node) == ["10.244.2.0/24 via 192.0.2.2 onlink"]
    apply(node, DELETE)
    assert snapshot(node) == before and not env.exists()


@pytest.mark.usefixtures("ipip")
def test_ipip_changes_in_place_what_the_kernel_can_and_makes_the_rest_anew(netns: Namespaces, apply: Apply) -> None:
    node = lone_node(netns)
    apply(node, args(IPIP, 1, 2))
    made = snapshot(node)
    smaller = apply(node, args({**IPIP, "mtu": 1400}, 1, 2))
    assert [str(operation)[:6] for operation in smaller.operations] == ["~ ipip"]
    assert node.json("ip -j link show flannel.ipip")[0]["mtu"] == 1380
    # Somebody changes what flannel's device has, and puts things on it.
    node.run("ip link set flannel.ipip type ipip ttl 9 pmtudisc local 192.0.2.1")
    node.run("ip address add 10.244.200.1/32 dev flannel.ipip")
    node.run("ip route add 10.244.200.0/24 via 192.0.2.200 dev flannel.ipip onlink")
    apply(node, args(IPIP, 1, 2))
    assert snapshot(node) == made


@pytest.mark.usefixtures("ipip")
def test_ipip_carries_pods_and_direct_peers_go_without_it(netns: Namespaces, apply: Apply) -> None:
    nodes = joined_nodes(netns, 2)
    pods = [pod(netns, node, number) for number, node in enumerate(nodes, 1)]
    for namespace, node in zip(pods, nodes, strict=True):
        namespace.run("ip link set eth0 mtu 1480")
        node.run("ip link set pod0 mtu 1480")
    bring(apply, nodes, IPIP)
    with packets.server(pods[1]):
        assert packets.ask(pods[0], "10.244.2.2", size=1480) == "10.244.1.2"
        carried = nodes[1].json("ip -s -j link show flannel.ipip")[0]["stats64"]
        assert carried["rx"]["packets"] >= 1 <= carried["tx"]["packets"]
        with packets.stream(pods[0], "10.244.2.2") as counts:
            for backend, device in ((DIRECT, "eth0"), (IPIP, "flannel.ipip")):
                bring(apply, nodes, backend)
                route = nodes[0].json("ip -j route show 10.244.2.0/24")[0]
                assert (route["dev"], route["gateway"], route["flags"]) == (device, "192.0.2.2", ["onlink"])
                time.sleep(0.2)
    sent, answered = counts
    assert sent == answered > 10


@pytest.mark.usefixtures("ipip")
def test_changes_to_and_from_ipip_give_what_a_fresh_node_gets(netns: Namespaces, apply: Apply) -> None:
    backends: dict[str, dict[str, Any]] = {"vxlan": {}, "ipip": IPIP, "host-gw": {"type": "host-gw"}}
    expected = {}
    for name, backend in backends.items():
        fresh = lone_node(netns)
        apply(fresh, args(backend, 1, 2))
        expected[name] = snapshot(fresh)
    node = lone_node(netns)
    for name in ("vxlan", "ipip", "host-gw", "ipip", "vxlan"):
        apply(node, args(backends[name], 1, 2))
        assert snapshot(node) == expected[name], name


@pytest.mark.usefixtures("ipip")
def test_ipip_is_refused_where_another_device_takes_its_packets(netns: Namespaces, apply: Apply) -> None:
    node = lone_node(netns)
    node.run("ip link add other type ipip local 192.0.2.1")
    before = snapshot(node)
    with pytest.raises(
        PrerequisiteError, match="ipip device other takes all packets to 192.0.2.1 already, and only one"
    ):
        apply(node, args(IPIP, 1, 2))
    assert snapshot(node) == before
    node.run("ip link del other")
    node.run("ip link add flannel.ipip type bridge")
    with pytest.raises(
        PrerequisiteError, match="interface flannel.ipip is there already and is bridge, not ipip; rename"
    ):
        apply(node, args(IPIP, 1, 2))


@pytest.mark.usefixtures("ipip")
def test_ipip_removal_leaves_a_device_that_was_not_made_from_here(netns: Namespaces, apply: Apply) -> None:
    node = lone_node(netns)
    node.run("ip link add flannel.ipip type ipip local 192.0.2.1")
    before = snapshot(node)
    assert not apply(node, {**DELETE, "backend": IPIP}).changed
    assert snapshot(node) == before
    apply(node, args(IPIP, 1))
    with inside(node):
        found = described(overlay_network.gather({"backend": IPIP}))
    assert found["backend"] == {"type": "ipip", "mtu": 1500}
