# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices and their peers in the kernel: reads them, and carries out operations on them."""

from __future__ import annotations

import itertools
import time
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from .._model.errors import ReadError
from .._model.item import Item, Key, State
from .._model.wireguard import WireguardDevice, WireguardPeer
from .._plan.operation import ADD, DELETE, Operation
from . import links
from .bulk import absent, apply_many, refusal
from .busy_port import busy_port
from .rtnetlink import RefusedError, Rtnetlink
from .wireguard import FWMARK, KIND, QUEUE_LENGTH, Found, Wireguard, add_link, opened

# drivers/net/wireguard/messages.h REJECT_AFTER_TIME: for so long after a handshake packets are taken and sent.
_SESSION_SECONDS = 180


class WireguardAdapter:
    """Speaks for the given devices and all of their peers; links of these names of another kind are left out.

    ``declared`` has the endpoints that peers were given earlier, by their keys. Where a peer is reached by
    another one since its packets come from there, that is no difference as long as it is in touch.
    """

    KINDS = (WireguardDevice.kind, WireguardPeer.kind)

    def __init__(self, devices: Iterable[str], declared: Optional[Mapping[Key, str]] = None) -> None:
        self._devices = [device for device in dict.fromkeys(devices) if device]
        self._declared = dict(declared or {})

    def read(self) -> State:
        try:
            with Rtnetlink() as netlink:
                named = [(name, links.read_link(netlink, name)) for name in self._devices]
            present = [(name, link) for name, link in named if link is not None and links.kind_of(link) == KIND]
            if not present:
                return {}
            with Wireguard() as wireguard:
                return self._read(wireguard, present)
        except (RefusedError, OSError) as error:
            raise ReadError(f"the kernel's view of {', '.join(self._devices)}: {error}") from error

    def read_again(self, operations: Sequence[Operation]) -> Dict[Key, Optional[Item]]:
        """There is no asking for one peer."""
        found = self.read()
        return {operation.item.key: found.get(operation.item.key) for operation in operations}

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        with opened() as wireguard, Rtnetlink() as netlink:
            for many, run in itertools.groupby(operations, lambda operation: isinstance(operation.item, WireguardPeer)):
                if many:
                    for operation in apply_many(wireguard.netlink, run, wireguard.message):
                        self._remember(operation)
                        yield operation
                    continue
                for operation in run:
                    try:
                        _carry_out(netlink, wireguard, operation)
                    except (RefusedError, OSError) as error:
                        if operation.action != DELETE or not absent(error):
                            raise refusal(operation, error, busy_port(netlink, operation.item, error)) from error
                    yield operation

    def _read(self, wireguard: Wireguard, present: List[Tuple[str, Any]]) -> State:
        state: State = {}
        now = time.time()
        for name, link in present:
            found = wireguard.read(name)
            device = _decode(name, link, found)
            state[device.key] = device
            for peer, handshake in found.peers:
                state[peer.key] = self._settled(peer, now - handshake < _SESSION_SECONDS)
        return state

    def _remember(self, operation: Operation) -> None:
        """A peer in touch may be elsewhere again before anybody has looked."""
        if isinstance(operation.item, WireguardPeer) and operation.action != DELETE:
            self._declared[operation.item.key] = operation.item.endpoint

    def _settled(self, peer: WireguardPeer, in_touch: bool) -> WireguardPeer:
        declared = self._declared.get(peer.key, peer.endpoint)
        if declared == peer.endpoint or not in_touch:
            return peer
        return peer._replace(endpoint=declared, roamed=peer.endpoint)


def _decode(name: str, link: Any, found: Found) -> WireguardDevice:
    queue = link.get_attr("IFLA_TXQLEN") or 0
    return WireguardDevice(
        name=name,
        public_key=found.public_key,
        listen_port=found.listen_port,
        mtu=link.get_attr("IFLA_MTU"),
        options=((FWMARK, found.fwmark),) if found.fwmark else (),
        defaults=((QUEUE_LENGTH, queue),) if queue else (),
        private_key=found.private_key,
    )


def _carry_out(netlink: Rtnetlink, wireguard: Wireguard, operation: Operation) -> None:
    device, previous = operation.item, operation.previous
    assert isinstance(device, WireguardDevice)
    if operation.action == DELETE:
        links.delete_link(netlink, device.name)
    elif operation.action == ADD:
        add_link(netlink, device.name, device.mtu, int(str(dict(device.defaults).get(QUEUE_LENGTH, 0))))
        try:
            wireguard.configure(device)
        except RefusedError:
            links.delete_link(netlink, device.name)
            raise
    else:
        assert isinstance(previous, WireguardDevice)
        _change(netlink, wireguard, device, previous)


def _change(netlink: Rtnetlink, wireguard: Wireguard, device: WireguardDevice, previous: WireguardDevice) -> None:
    """In place, so that peers stay; all or nothing."""
    wireguard.configure(device)
    try:
        if device.mtu != previous.mtu:
            links.change_mtu(netlink, device.name, device.mtu)
    except RefusedError:
        wireguard.configure(previous)
        raise
