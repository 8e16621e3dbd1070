# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A run that fails at any of its operations leaves the kernel as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pyroute2 import netns as pyroute2_netns

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Adapter
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import State
from ansible_collections.fairlead.cluster.plugins.module_utils._model.overlay import parse_overlay
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation
from tests.kernel.namespaces import NETNS_DIR, Namespace, Namespaces
from tests.kernel.overlay_nodes import document, lone_node, member, snapshot
from tests.kernel.test_overlay_changes import FOREIGN


class Poisoned:
    """An adapter whose operation at ``position`` is refused; the way back is open."""

    def __init__(self, inner: Adapter, position: int) -> None:
        self.inner = inner
        self.position = position
        self.planned = 0

    def read(self) -> State:
        return self.inner.read()

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        if self.planned:
            yield from self.inner.apply(operations)
            return
        self.planned = len(operations)
        yield from self.inner.apply(operations[: self.position])
        if self.position < len(operations):
            raise ApplyError(operations[self.position].item, "poisoned")


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    pyroute2_netns.pushns(str(NETNS_DIR / namespace.name))
    try:
        yield
    finally:
        pyroute2_netns.popns()


def no_runner(_args: Sequence[str], _data: str | None = None) -> tuple[int, str, str]:
    raise AssertionError("the datapath needs no command")


@pytest.fixture
def converge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Converge to a document with the operation at a position poisoned; the number of operations that were planned."""
    plain = overlay_network._adapter

    def run(node: Namespace, args: dict[str, Any], position: int, earlier: dict[str, Any] | None) -> int:
        poisoned: list[Poisoned] = []

        def poison(*arguments: Any) -> Poisoned:
            poisoned.append(Poisoned(plain(*arguments), position))
            return poisoned[0]

        before = [parse_overlay(earlier)] if earlier is not None else []
        monkeypatch.setattr(overlay_network, "_adapter", poison)
        monkeypatch.setattr(overlay_network, "_earlier_overlays", lambda *_: before)
        with inside(node):
            overlay_network.converge(args, False, no_runner)
        return poisoned[0].planned

    return run


def check_every_position(
    node: Namespace,
    converge: Callable[..., int],
    args: dict[str, Any],
    earlier: dict[str, Any] | None,
    snapshot: Callable[[Namespace], dict[str, Any]] = snapshot,
) -> int:
    """Fail at each position in turn, then succeed; the number of positions."""
    before = snapshot(node)
    position = 0
    while True:
        try:
            planned = converge(node, args, position, earlier)
        except ApplyError as error:
            assert "poisoned" in str(error)
            assert snapshot(node) == before, f"after a failure at operation {position}"
            position += 1
        else:
            assert planned == position
            return position


def settled(netns: Namespaces, converge: Callable[..., int], *extra: str) -> Namespace:
    node = lone_node(netns)
    node.run("ip address add 192.0.2.101/24 dev eth0")
    converge(node, document(1, 2, 3), 100, None)
    for command in extra:
        node.run(command)
    return node


def test_undo_of_a_first_run(netns: Namespaces, converge: Callable[..., int]) -> None:
    assert check_every_position(lone_node(netns), converge, document(1, 2, 3), None) == 11


def test_undo_of_changed_peers_and_collected_entries(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = settled(netns, converge, *FOREIGN)
    args = document(1, 4, backend={"mtu": 1400})
    args["peers"] += [{**member(2), "mac": "02:aa:bb:cc:dd:77"}, {**member(3), "address": "192.0.2.77"}]
    assert check_every_position(node, converge, args, None) == 9 + len(FOREIGN)


@pytest.mark.parametrize(
    "change",
    [{"node": {**member(1), "address": "192.0.2.101"}}, {"backend": {"port": 4789}}],
    ids=["local address", "port"],
)
def test_undo_of_a_device_made_anew(netns: Namespaces, converge: Callable[..., int], change: dict[str, Any]) -> None:
    secondary = [f"ip address add 10.244.210.{last}/24 dev flannel.1" for last in (1, 2, 3)]
    node = settled(netns, converge, *FOREIGN, *secondary, "ip address add 172.16.0.1/24 dev flannel.1")
    assert check_every_position(node, converge, {**document(1, 2, 3), **change}, None) > 25


def test_undo_of_replacing_a_device_of_others(netns: Namespaces, converge: Callable[..., int]) -> None:
    """A device with properties that ours never have comes back with them."""
    node = lone_node(netns)
    node.run(
        "ip link add flannel.1 address 02:00:00:00:00:55 mtu 1400 txqlen 500 type vxlan id 1 group 239.1.1.1 dev eth1"
        " local 192.0.2.1 dstport 8472 srcport 40000 50000 learning l2miss proxy ttl 5 noudpcsum ageing 77 gbp"
    )
    node.run("ip link set flannel.1 up")
    node.run("ip address add 10.9.9.9/24 brd 10.9.9.255 dev flannel.1 label flannel.1:x")
    assert check_every_position(node, converge, document(1, 2), None) > 5
    assert "192.0.2.1" in node.out("ip -d link show flannel.1")


def test_undo_of_another_vni(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = settled(netns, converge)
    other = document(1, 2, 3, backend={"vni": 42})
    assert check_every_position(node, converge, other, document(1, 2, 3)) == 18


def test_undo_of_another_backend_and_of_the_way_back(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = settled(netns, converge)
    vxlan, host_gw = document(1, 2, 3), document(1, 2, 3, backend={"type": "host-gw"})
    assert check_every_position(node, converge, host_gw, vxlan) == 11
    assert check_every_position(node, converge, vxlan, host_gw) == 11


def test_undo_of_direct_routing_and_learning(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = settled(netns, converge)
    direct = document(1, 2, 3, backend={"direct_routing": True, "learning": True, "mtu": 1400})
    assert check_every_position(node, converge, direct, document(1, 2, 3)) == 9
    assert check_every_position(node, converge, {"state": "deleted"}, direct) == 7


def test_undo_of_a_deletion(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = settled(netns, converge, *FOREIGN)
    assert check_every_position(node, converge, {"state": "deleted"}, document(1, 2, 3)) == 11 + len(FOREIGN)


def test_undo_of_a_replaced_foreign_route(netns: Namespaces, converge: Callable[..., int]) -> None:
    node = lone_node(netns)
    node.run("ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1 mtu 1300")
    node.run("ip route add 10.244.3.0/24 nexthop via 192.0.2.3 weight 2 nexthop via 192.0.2.4")
    node.run("ip route add unreachable 10.244.4.0/24")
    assert check_every_position(node, converge, document(1, 2, 3, 4), None) == 15
