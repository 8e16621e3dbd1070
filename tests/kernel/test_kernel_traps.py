# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Where the kernel says yes and does something else. docs/reference/kernel_traps.md lists all, with the test of each.

Each test first shows that the trap is there, so that one that a kernel has filled up is noticed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import DeviceAddress, ForwardingEntry
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import parse_overlay, wanted_items
from ansible_collections.fairlead.cluster.plugins.module_utils._model.underlay import Underlay
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink import links
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink.overlay import OverlayAdapter
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, DELETE, Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, dual_document, lone_node, member, snapshot
from tests.kernel.test_overlay_undo import inside, no_runner

DEVICE, MAC = "flannel.1", member(2)["mac"]


@pytest.fixture
def node(netns: Namespaces, run_module: RunModule) -> Namespace:
    """A node with one peer."""
    made = lone_node(netns)
    run_module("overlay_network", document(1, 2), netns=made)
    return made


def forwarding(node: Namespace) -> dict[str, list[str]]:
    """Destinations by MAC address, as the device has them."""
    found: dict[str, list[str]] = {}
    for entry in node.json(f"bridge -j fdb show dev {DEVICE}"):
        found.setdefault(entry["mac"], []).append(entry["dst"])
    return found


def test_second_destination_of_a_mac_address_is_not_appended(node: Namespace, run_module: RunModule) -> None:
    """The kernel takes an append for the address of one device and leaves the old destination."""
    node.run(f"bridge fdb append {MAC} dst 192.0.2.77 dev {DEVICE} self permanent")
    assert forwarding(node)[MAC] == ["192.0.2.2"]
    moved = document(1, 2)
    moved["peers"][0]["address"] = "192.0.2.77"
    run_module("overlay_network", moved, netns=node)
    assert forwarding(node) == {MAC: ["192.0.2.77"]}


def test_forwarding_entry_that_moved_meanwhile_is_deleted(node: Namespace) -> None:
    """The kernel answers the deletion of an entry with another destination with success, and keeps it."""
    node.run(f"bridge fdb delete {MAC} dst 192.0.2.77 dev {DEVICE} self")
    assert forwarding(node) == {MAC: ["192.0.2.2"]}
    with inside(node):
        list(apply(Operation(DELETE, ForwardingEntry(DEVICE, MAC, "192.0.2.77"))))
    assert forwarding(node) == {}


def apply(*operations: Operation) -> Iterator[Operation]:
    return OverlayAdapter([DEVICE], [], True).apply(operations)


def test_forwarding_entries_need_state_and_flag(node: Namespace) -> None:
    """What `ip neigh` calls permanent is one bit; bridge's default sets another one too, and prints the same."""
    node.run(f"bridge fdb replace 02:00:00:00:00:99 dst 192.0.2.99 dev {DEVICE} self")
    with inside(node):
        state = OverlayAdapter([DEVICE], [], True).read()
    states = {item.mac: item.state for item in state.values() if isinstance(item, ForwardingEntry)}
    assert states[MAC] == 0x80 and states["02:00:00:00:00:99"] != 0x80


def test_operations_lead_to_the_same_state_twice(netns: Namespaces) -> None:
    """Adding an address a second time is an error to the kernel; answers may get lost, and then all is sent again."""
    node = lone_node(netns)
    node.run(f"ip link add {DEVICE} type vxlan id 9 dstport 9999")
    node.run(f"ip address add 10.244.1.0/32 dev {DEVICE}")
    with pytest.raises(AssertionError):
        node.run(f"ip address add 10.244.1.0/32 dev {DEVICE}")
    before = node.json(f"ip -4 -j address show dev {DEVICE}")
    with inside(node):
        list(apply(Operation(ADD, DeviceAddress(DEVICE, "10.244.1.0/32"))))
    assert node.json(f"ip -4 -j address show dev {DEVICE}") == before
    node.run(f"ip link delete {DEVICE}")
    overlay = parse_overlay(dual_document(1, 2, 3))
    want = state_of(wanted_items(overlay, [Underlay("eth0", 1500)] * 2, 0, True))
    operations = plan_overlay({}, Wanted(want))
    devices = [family.device for family in overlay.families]
    with inside(node):
        adapter = OverlayAdapter(devices, [], True)
        list(adapter.apply(operations))
        once = snapshot(node)
        # Devices alone are made once: a second one of the name is somebody else's.
        list(adapter.apply([operation for operation in operations if operation.item.kind != "vxlan"]))
    assert snapshot(node) == once


def test_modules_work_inside_of_a_running_event_loop(netns: Namespaces) -> None:
    """pyroute2's own sockets refuse to."""
    node = lone_node(netns)

    async def run() -> bool:
        return overlay_network.converge(document(1, 2), False, no_runner).changed

    with inside(node):
        assert asyncio.run(run())
    assert forwarding(node) == {MAC: ["192.0.2.2"]}


def test_threads_have_sockets_of_their_own(node: Namespace) -> None:
    """Answers on one socket would go to whoever asks first."""
    states: list[Any] = []

    def read() -> None:
        for _time in range(20):
            states.append(OverlayAdapter([DEVICE], [], True).read())

    with inside(node):
        threads = [threading.Thread(target=read) for _number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(states) == 8 * 20
    assert all(state == states[0] for state in states)


def test_masks_off_the_borders_of_octets_are_right(netns: Namespaces, run_module: RunModule) -> None:
    """pyroute2's expressions for nftables make 255.15.0.0 of a /12."""
    node = netns("n1")
    networks = {"network": "172.16.0.0/12", "subnet": "172.20.16.0/20"}
    run_module("masquerade", {**networks, "backend": "nftables"}, netns=node)
    rules = node.out("nft list table ip fairlead")
    assert "ip saddr 172.20.16.0/20 ip daddr 172.16.0.0/12 return" in rules
    assert "ip saddr 172.16.0.0/12 accept" in rules


def test_mac_address_that_something_changed_is_noticed(netns: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """As udev does with MACAddressPolicy=persistent, at any time until the device is up."""
    node = lone_node(netns)
    before = snapshot(node)
    set_up = links.set_up

    def udev_is_faster(netlink: Any, name: str, up: bool) -> None:
        if up:
            node.run(f"ip link set {name} address 02:00:00:00:00:77")
        set_up(netlink, name, up)

    monkeypatch.setattr(links, "set_up", udev_is_faster)
    with (
        inside(node),
        pytest.raises(ApplyError, match=r"MAC address from 02:aa:bb:cc:dd:01 to 02:00:00:00:00:77.*udev"),
    ):
        overlay_network.converge(document(1, 2), False, no_runner)
    assert snapshot(node) == before
