# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A run with WireGuard that fails at any of its operations leaves the kernel as it was, keys too. Where this kernel has
no WireGuard, the tests run in a guest that has it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import guest
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import lone_node
from tests.kernel.test_overlay_undo import check_every_position, converge
from tests.kernel.test_overlay_wireguard import MODULES, has_wireguard, keys, wireguard
from tests.kernel.wireguard_nodes import PSK, Keys

__all__ = ["converge", "keys", "wireguard"]
Converge = Callable[..., int]
DELETE = {"state": "deleted"}


#: Everything that a run could change in the kernel, by few processes: in a guest each one takes its time. Left out are
#: numbers of interfaces, what the kernel adds in its own time, counters and times of contact.
STATE = """
ip -o -d link show | cut -d: -f2-
ip -o address show scope global | cut -d: -f2-
for family in -4 -6; do
    ip -d $family route show table all | grep -v -E '(fe80:|ff00:)'
    ip $family neighbor show nud permanent
done
ip nexthop show
for name in $(ip -o link show type vxlan | cut -d: -f2); do bridge fdb show dev $name; done
wg show all dump | cut -f1-5,9
"""


def snapshot(node: Namespace) -> dict[str, Any]:
    return {"lines": sorted(node.out(["sh", "-c", STATE]).splitlines())}


@pytest.mark.guest
def test_undo_in_a_kernel_that_has_wireguard(netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_wireguard(netns("probe")):
        pytest.skip("the other tests of this file have run in this kernel")
    output = guest.run_tests(DebianKernel(), ["tests/kernel/test_wireguard_undo.py"], MODULES, tmp_path, timeout=3600)
    counts = re.search(r"(\d+) passed, (\d+) skipped", output)
    assert counts is not None and int(counts[1]) >= 4, output


def undone_everywhere(
    node: Namespace, converge: Converge, change: dict[str, Any], earlier: dict[str, Any] | None
) -> int:
    return check_every_position(node, converge, change, earlier, snapshot)


def vxlan(keys: Keys, *numbers: int) -> dict[str, Any]:
    """The same nodes without their keys."""
    document = keys.document(*numbers)
    for member in (document["node"], *document["peers"]):
        del member["public_key"]
        member["mac"] = f"02:aa:bb:cc:dd:{member['name'][1:]:>02}"
    return {**document, "backend": {"type": "vxlan"}}


@pytest.mark.usefixtures("wireguard")
def test_undo_of_a_first_run_and_of_a_deletion(netns: Namespaces, converge: Converge, keys: Keys) -> None:
    node = lone_node(netns)
    document = keys.document(1, 2, 3, dual=True, psk=PSK, keepalive=25)
    assert undone_everywhere(node, converge, document, None) == 12
    assert undone_everywhere(node, converge, DELETE, document) == 12


@pytest.mark.usefixtures("wireguard")
def test_undo_of_another_backend_and_of_the_way_back(netns: Namespaces, converge: Converge, keys: Keys) -> None:
    node = lone_node(netns)
    plain, encrypted = vxlan(keys, 1, 2, 3), keys.document(1, 2, 3, psk=PSK)
    converge(node, plain, 100, None)
    assert undone_everywhere(node, converge, encrypted, plain) == 17
    assert undone_everywhere(node, converge, plain, encrypted) == 17


@pytest.mark.usefixtures("wireguard")
def test_undo_of_another_mode_and_of_the_way_back(netns: Namespaces, converge: Converge, keys: Keys) -> None:
    node = lone_node(netns)
    two, one = (keys.document(1, 2, 3, dual=True, mode=mode) for mode in ("separate", "auto"))
    converge(node, two, 100, None)
    assert undone_everywhere(node, converge, one, two) > 5
    assert undone_everywhere(node, converge, two, one) > 5


FOREIGN = (
    "wg set flannel-wg fwmark 7",
    "wg set flannel-wg peer {other} allowed-ips 10.244.77.0/24 endpoint 192.0.2.77:1 persistent-keepalive 3",
    "ip route add 10.244.200.0/24 dev flannel-wg metric 7 mtu 1300",
    "ip route add 203.0.113.0/24 dev flannel-wg table 100",
    "ip address add 10.244.99.0/32 dev flannel-wg",
)


@pytest.mark.usefixtures("wireguard")
def test_undo_of_changes_in_place(netns: Namespaces, converge: Converge, keys: Keys) -> None:
    """Another key, port and MTU of the device; peers that come, go and change; what others put there."""
    node = lone_node(netns)
    first = keys.document(1, 2, 3, 5, psk=PSK, keepalive=5)
    converge(node, first, 100, None)
    for command in FOREIGN:
        node.run(command.format(other=keys.public(9)))
    # The old key is needed for the way back, and the file has the new one by then.
    keys.anew(1)
    keys.anew(3)
    change = keys.document(1, 3, 4, 5, listen_port=7777, mtu=1400)
    change["peers"][-1] |= {"subnet": "10.244.2.0/24", "address": "192.0.2.55", "listen_port": 5555}
    assert undone_everywhere(node, converge, change, first) > 9
