# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of WireGuard's peers, which the kernel moves without being asked: an undo anywhere brings all back."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.wireguard import WireguardPeer, canonical
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import DELETE, Operation
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.overlay import Wanted, plan_overlay
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.wireguard import given_back

PEERS, NETWORKS = 4, 5


def key(number: int) -> str:
    return base64.b64encode(bytes([number] * 32)).decode()


def peers(numbers: set[int], holders: list[int]) -> State:
    """``holders`` has for each network the peer that has it; without that one it is nobody's."""
    found: list[Item] = []
    for number in numbers:
        allowed = canonical(f"10.244.{at}.0/24" for at, holder in enumerate(holders) if holder == number)
        found.append(WireguardPeer("flannel-wg", key(number), f"192.0.2.{number}:51820", allowed))
    return state_of(found)


class Kernel:
    """What the kernel does with allowed addresses, by public key."""

    def __init__(self, have: State) -> None:
        self.allowed = {peer.public_key: set(peer.allowed_ips) for peer in map(peer_of, have.values())}

    def carry_out(self, operation: Operation) -> None:
        peer = peer_of(operation.item)
        if operation.action == DELETE:
            del self.allowed[peer.public_key]
        elif operation.previous is None or peer_of(operation.previous).allowed_ips != peer.allowed_ips:
            # With the same addresses the message does not name them.
            self.allowed[peer.public_key] = set()
            for network in peer.allowed_ips:
                self._give(peer.public_key, network)
        for network, other in given_back(operation):
            if other in self.allowed:
                self._give(other, network)

    def _give(self, public_key: str, network: str) -> None:
        for allowed in self.allowed.values():
            allowed.discard(network)
        self.allowed[public_key].add(network)


def peer_of(item: Item) -> WireguardPeer:
    assert isinstance(item, WireguardPeer)
    return item


MEMBERS = st.sets(st.integers(1, PEERS))
HOLDERS = st.lists(st.integers(1, PEERS), min_size=NETWORKS, max_size=NETWORKS)


@given(st.tuples(MEMBERS, HOLDERS), st.tuples(MEMBERS, HOLDERS))
def test_undo_at_every_position_gives_all_networks_back(
    before: tuple[set[int], list[int]], after: tuple[set[int], list[int]]
) -> None:
    have, want = peers(*before), peers(*after)
    operations = plan_overlay(have, Wanted(want))
    for position in range(len(operations) + 1):
        kernel = Kernel(have)
        for operation in operations[:position]:
            kernel.carry_out(operation)
        if position == len(operations):
            assert kernel.allowed == Kernel(want).allowed
        for operation in reversed(operations[:position]):
            kernel.carry_out(operation.inverse())
        assert kernel.allowed == Kernel(have).allowed, position


def test_what_a_peer_takes_is_not_told() -> None:
    have, want = peers({1}, [1, 1]), peers({2}, [2, 2])
    operations = plan_overlay(have, Wanted(want))
    added = peer_of(operations[0].item)
    assert added.taken == (("10.244.0.0/24", key(1)), ("10.244.1.0/24", key(1)))
    assert added.to_dict() == peer_of(want[added.key]).to_dict()
    assert str(added) == str(want[added.key])
