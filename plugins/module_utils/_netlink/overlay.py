# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The datapath of an overlay in the kernel: reads it, and carries out operations on it."""

from __future__ import annotations

import errno
import itertools
import socket
from typing import Any, Dict, FrozenSet, Iterable, Iterator, Optional, Sequence, Set, Tuple

from .._model.backend import IPIP, IPIP_DEVICE, IPV6_PREFIX, VXLAN, WIREGUARD
from .._model.datapath import DUPLICATE, SCOPE_LINK, Device, DeviceAddress, IpipDevice, LinkUp, Route, VxlanDevice
from .._model.errors import ApplyError, ReadError
from .._model.ip_version import IPV4, IPV6, VERSIONS, IpVersion, version_of
from .._model.item import Item, Key, State
from .._model.wireguard import WIREGUARD_DEVICE, WIREGUARD_DEVICE6
from .._plan.operation import ADD, DELETE, Operation
from . import entries, ipip, links, lookup, nexthops, tables
from .bulk import absent, apply_many, refusal
from .messages import BULK, MessageEncoder
from .rtnetlink import CREATE, EXCLUSIVE, REPLACE, Message, RefusedError, Rtnetlink, interface_index

KINDS = ("vxlan", "ipip", "address", "link_up", "neighbor", "fdb", "nexthop", "route")


class OverlayAdapter:
    """Speaks for the given devices with everything on them, and for the routes and nexthop objects of the given keys on
    any device.

    Left out is what the kernel itself put there: connected and multicast routes, IPv6 link-local addresses, neighbors
    and forwarding entries that are not permanent. So is what belongs to the IP version that a device is not for, and a
    link of one of these names that is not of the kind that flannel's device of this name is. ``with_accept_ra`` tells
    whether that sysctl of VXLAN devices is looked at. WireGuard devices and their peers have an adapter of their own.
    """

    def __init__(self, devices: Iterable[str], keys: Iterable[Key], with_accept_ra: bool) -> None:
        self._devices = [device for device in dict.fromkeys(devices) if device]
        self._keys: FrozenSet[Key] = frozenset(keys)
        self._with_accept_ra = with_accept_ra
        self._made: Dict[str, str] = {}

    def read(self) -> State:
        state: State = {}
        try:
            with Rtnetlink() as netlink:
                self._read_devices(netlink, state)
        except (RefusedError, OSError) as error:
            raise ReadError(f"the kernel's view of {', '.join(self._devices)}: {error}") from error
        return state

    def read_again(self, operations: Sequence[Operation]) -> Optional[Dict[Key, Optional[Item]]]:
        """Asks for the objects one by one, unless one of them carries others, or there may be more with its key."""
        if any(each.item.kind not in BULK or _is_one_of_several(each) for each in operations):
            return None
        try:
            with Rtnetlink() as netlink:
                return lookup.find(netlink, [operation.item for operation in operations])
        except (RefusedError, OSError):
            # Linux before 5.0 cannot be asked for one neighbor.
            return None

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        with Rtnetlink() as netlink:
            for (bulk, _deleting), run in itertools.groupby(operations, _way_to_send):
                if bulk:
                    yield from apply_many(netlink, run, MessageEncoder().message, _is_settled)
                    continue
                for operation in run:
                    try:
                        self._carry_out(netlink, operation)
                    except (RefusedError, OSError) as error:
                        # Only where it is needed: start-up is part of what a run costs.
                        from .busy_port import busy_port

                        raise refusal(operation, error, busy_port(netlink, operation.item, error)) from error
                    yield operation

    def _read_devices(self, netlink: Rtnetlink, state: State) -> None:
        indexes: Dict[int, str] = {}
        versions: Set[IpVersion] = {version_of(str(key[2])) for key in self._keys if key[0] == "route"}
        for name in self._devices:
            link = links.read_link(netlink, name)
            if link is not None and links.kind_of(link) == _kind_of_name(name):
                indexes[link["index"]] = name
                versions.update(_versions_of_name(name))
                if _kind_of_name(name) != WIREGUARD:
                    device = self._decode(link, name)
                    state[device.key] = device
                self._read_device(netlink, link["index"], name, bool(link["flags"] & links.IFF_UP), state)
        if indexes or self._keys:
            names = dict(socket.if_nameindex())
            devices = frozenset(indexes.values())
            if nexthops.supported(netlink):
                tables.read_nexthops(netlink, names, devices, self._keys, state)
            # In the same order in every run, as a set is not.
            for version in (version for version in VERSIONS if version in versions):
                tables.read_routes(netlink, version, names, devices, self._keys, state)

    def _decode(self, link: Any, name: str) -> Device:
        return ipip.decode_ipip(link) if name == IPIP_DEVICE else links.decode_vxlan(link, self._with_accept_ra)

    def _read_device(self, netlink: Rtnetlink, index: int, name: str, up: bool, state: State) -> None:
        for version in _versions_of_name(name):
            for message in netlink.dump(entries.GET_ADDRESS, entries.address_request(index, version.family)):
                found_index, _flags, address = entries.decode_address(message, name)
                if found_index == index and address.scope != SCOPE_LINK:
                    state[address.key] = address
            if _kind_of_name(name) == VXLAN:
                tables.read_neighbors(netlink, index, name, version, state)
                tables.read_fdb(netlink, index, name, version, state)
        if up:
            state[LinkUp(name).key] = LinkUp(name)

    def _carry_out(self, netlink: Rtnetlink, operation: Operation) -> None:
        item = operation.item
        if operation.action == DELETE:
            _delete(netlink, item)
        elif isinstance(item, VxlanDevice) and operation.action == ADD:
            links.add_vxlan(netlink, item)
            self._made[item.name] = item.mac
        elif isinstance(item, VxlanDevice):
            assert isinstance(operation.previous, VxlanDevice)
            links.change_vxlan(netlink, item, operation.previous)
        elif isinstance(item, IpipDevice):
            _put_ipip(netlink, item, operation.action == ADD)
        elif isinstance(item, LinkUp):
            links.set_up(netlink, item.device, True)
            self._check_mac(netlink, item)
        else:
            assert isinstance(item, DeviceAddress)
            body = entries.encode_address(item, interface_index(item.device))
            netlink.change(entries.NEW_ADDRESS, CREATE | REPLACE, body)

    def _check_mac(self, netlink: Rtnetlink, item: LinkUp) -> None:
        """A udev rule may give a new device another address at any time until it is up; peers would not reach it."""
        link = links.read_link(netlink, item.device)
        wanted = self._made.get(item.device)
        if link is not None and wanted is not None and link.get_attr("IFLA_ADDRESS") != wanted:
            found = link.get_attr("IFLA_ADDRESS")
            raise ApplyError(
                item,
                f"something changed the MAC address from {wanted} to {found}; "
                f"systemd-udevd does so without a .link file with MACAddressPolicy=none for flannel*",
            )


def _is_one_of_several(operation: Operation) -> bool:
    """Dumps of IPv6 routes pass over what stands between the parts of a route with several ways, until it is gone."""
    several = ("multipath", DUPLICATE)
    routes = [item for item in (operation.item, operation.previous) if isinstance(item, Route) and item.options]
    return any(name in several for route in routes for name, _value in route.options)


def _kind_of_name(name: str) -> str:
    if name in (WIREGUARD_DEVICE, WIREGUARD_DEVICE6):
        return WIREGUARD
    return IPIP if name == IPIP_DEVICE else VXLAN


def _versions_of_name(name: str) -> Tuple[IpVersion, ...]:
    """A WireGuard device may be for both."""
    if _kind_of_name(name) == WIREGUARD:
        return VERSIONS
    return (IPV6,) if name.startswith(IPV6_PREFIX) else (IPV4,)


def _put_ipip(netlink: Rtnetlink, item: IpipDevice, new: bool) -> None:
    if new:
        ipip.add_ipip(netlink, item)
    else:
        links.change_mtu(netlink, item.name, item.mtu)


def _delete(netlink: Rtnetlink, item: Item) -> None:
    try:
        if isinstance(item, (VxlanDevice, IpipDevice)):
            links.delete_link(netlink, item.name)
        elif isinstance(item, LinkUp):
            _set_down(netlink, item.device)
        else:
            assert isinstance(item, DeviceAddress)
            body = entries.encode_address(item, interface_index(item.device))
            netlink.change(entries.DELETE_ADDRESS, 0, body)
    except (RefusedError, OSError) as error:
        if not absent(error):
            raise


def _set_down(netlink: Rtnetlink, device: str) -> None:
    """The kernel takes IPv6 addresses of a device along when it goes down, but lets one that is down have some. The
    latest one is told first."""
    index = interface_index(device)
    request = entries.address_request(index, IPV6.family)
    found = [entries.decode_address(message, device) for message in netlink.dump(entries.GET_ADDRESS, request)]
    links.set_up(netlink, device, False)
    for found_index, _flags, address in reversed(found):
        if found_index == index and address.scope != SCOPE_LINK:
            netlink.change(entries.NEW_ADDRESS, CREATE | REPLACE, entries.encode_address(address, index))


def _way_to_send(operation: Operation) -> Tuple[bool, bool]:
    """Whether in bulk; deletions apart from all else, so that what was refused at first is there before they begin."""
    return operation.item.kind in BULK, operation.action == DELETE


def _is_settled(netlink: Rtnetlink, operation: Operation, message: Message, refusal: RefusedError) -> bool:
    """Whether a refused operation needs no more, or no longer."""
    if operation.action == DELETE:
        return absent(refusal)
    return _is_put_with_a_way(netlink, operation, message, refusal)


def _is_put_with_a_way(netlink: Rtnetlink, operation: Operation, message: Message, refusal: RefusedError) -> bool:
    """Whether an IPv6 route that was refused is there now.

    The kernel refuses a gateway on the link while other routes, the one to be replaced too, send packets for that
    address over another device. A route to the gateway alone makes it agree, and goes again.
    """
    item = operation.item
    if not isinstance(item, Route) or not (item.onlink and ":" in item.gateway) or refusal.code != errno.EINVAL:
        return False
    way = Route(f"{item.gateway}/{IPV6.bits}", "", item.device, onlink=False, metric=1)
    body = entries.encode_route(way, interface_index(item.device))
    try:
        netlink.change(entries.NEW_ROUTE, CREATE | EXCLUSIVE, body)
        try:
            netlink.change(*message)
        finally:
            netlink.change(entries.DELETE_ROUTE, 0, body)
    except RefusedError:
        return False
    return True
