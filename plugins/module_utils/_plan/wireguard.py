# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that move from one peer of a WireGuard device to another, and back when a run is undone.

The kernel gives a network to one peer at a time: who gets it takes it from who has it, in one step and without a word.
That is an effect on an object that the operation does not name, so undoing the operation has to know of it.
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from .._model.item import State
from .._model.wireguard import WireguardPeer
from .operation import DELETE, Operation


def taking(operations: Sequence[Operation], have: State) -> List[Operation]:
    """Operations that give networks to peers, with the peers that have them now."""
    if not operations:
        return []
    holders: Dict[Tuple[str, str], str] = {}
    for peer in have.values():
        if isinstance(peer, WireguardPeer):
            holders.update({(peer.device, network): peer.public_key for network in peer.allowed_ips})
    return [operation._replace(item=_with_taken(operation.item, holders)) for operation in operations]


def _with_taken(peer: object, holders: Dict[Tuple[str, str], str]) -> WireguardPeer:
    assert isinstance(peer, WireguardPeer)
    found = ((network, holders.get((peer.device, network), peer.public_key)) for network in peer.allowed_ips)
    return peer._replace(taken=tuple((network, key) for network, key in found if key != peer.public_key))


def given_back(operation: Operation) -> Tuple[Tuple[str, str], ...]:
    """Networks, and the public keys of the peers that get them again: where the operation takes back one that took
    them."""
    taker = operation.item if operation.action == DELETE else operation.previous
    return taker.taken if isinstance(taker, WireguardPeer) else ()
