# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Dummy devices that hold addresses of services, and the addresses of a node."""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, List

from .._model.datapath import NO_DUPLICATE_DETECTION, SCOPE_LINK, DeviceAddress
from .._model.ip_version import version_of
from .._model.ipvs import DummyDevice
from .._plan.operation import DELETE, Operation
from . import entries, link_requests
from .rtnetlink import ABSENT, CREATE, REPLACE, Message, RefusedError, Rtnetlink, interface_index

KIND = "dummy"
# linux/if.h
_IFF_NOARP = 0x80


def is_dummy(netlink: Rtnetlink, name: str) -> bool:
    """Raises RefusedError with ENODEV where no interface is called so."""
    return link_requests.kind_of(netlink, name) == KIND


def is_there(name: str) -> bool:
    """Whether a dummy device is called so."""
    with Rtnetlink() as netlink:
        try:
            return is_dummy(netlink, name)
        except RefusedError as refusal:
            if refusal.code in ABSENT:
                return False
            raise


def add(netlink: Rtnetlink, device: DummyDevice) -> None:
    """Make the device; it stays down. Raises RefusedError with EOPNOTSUPP where the kernel has none."""
    link_requests.add(netlink, device.name, KIND, _IFF_NOARP)


def delete(netlink: Rtnetlink, device: DummyDevice) -> None:
    try:
        link_requests.delete(netlink, device.name)
    except RefusedError as refusal:
        if refusal.code not in ABSENT:
            raise


def addresses(netlink: Rtnetlink, devices: Dict[int, str]) -> List[DeviceAddress]:
    """Those of the given interfaces but for link-local ones."""
    found = []
    for message in netlink.dump(entries.GET_ADDRESS, entries.address_request(0, 0)):
        name = devices.get(entries.address_index(message))
        if name is not None:
            _index, _flags, address = entries.decode_address(message, name)
            if address.scope != SCOPE_LINK:
                found.append(address)
    return found


def elsewhere(devices: Iterable[str]) -> FrozenSet[str]:
    """Addresses, without prefix lengths, of all interfaces but the given ones."""
    with Rtnetlink() as netlink:
        indexes = set()
        for name in devices:
            try:
                indexes.add(interface_index(name))
            except RefusedError:
                continue
        messages = netlink.dump(entries.GET_ADDRESS, entries.address_request(0, 0))
        return frozenset(
            entries.decode_address(message, "")[2].address.partition("/")[0]
            for message in messages
            if entries.address_index(message) not in indexes
        )


def address_of_device(device: str, address: str) -> DeviceAddress:
    """An address with its prefix length as this module puts it there. A device that is down cannot look for duplicates,
    so an IPv6 address that waited for that would never be good."""
    flags = (("flags", NO_DUPLICATE_DETECTION),) if version_of(address).number == 6 else ()
    return DeviceAddress(device, address, 0, flags)


def message(operation: Operation) -> Message:
    """An operation on an address. Raises RefusedError with ENODEV without its device."""
    item = operation.item
    assert isinstance(item, DeviceAddress)
    body = entries.encode_address(item, interface_index(item.device))
    if operation.action == DELETE:
        return entries.DELETE_ADDRESS, 0, body
    return entries.NEW_ADDRESS, CREATE | REPLACE, body
