# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses, neighbors, forwarding entries and routes survive the way into a message and back."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import (
    DeviceAddress,
    ForwardingEntry,
    Neighbor,
    Route,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._netlink import entries

INDEX, DEVICE = 7, "flannel.1"
HEADER = bytes(16)
ADDRESSES = st.ip_addresses().map(str)
V4 = st.ip_addresses(v=4).map(str)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
NUMBERS = st.integers(1, 2**32 - 1)


def options(**values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[tuple[str, object], ...]]:
    """Any part of the given options, in the order in which they are decoded."""
    return st.fixed_dictionaries({}, optional=values).map(
        lambda chosen: tuple((name, chosen[name]) for name in values if name in chosen)
    )


@given(st.builds(DeviceAddress, st.just(DEVICE), V4.map(lambda ip: f"{ip}/24"), st.integers(0, 255)))
def test_address_comes_back(item: DeviceAddress) -> None:
    assert entries.decode_address(HEADER + entries.encode_address(item, INDEX), DEVICE) == (INDEX, 0, item)


@given(options(peer=V4, broadcast=V4, label=st.just("flannel.1:x"), flags=st.just(0x200)))
def test_address_of_others_keeps_what_it_has(extra: tuple[tuple[str, object], ...]) -> None:
    message = HEADER + entries.encode_address(DeviceAddress(DEVICE, "10.244.1.5/24", options=extra), INDEX)  # type: ignore[arg-type]
    assert entries.decode_address(message, DEVICE)[2].options == extra


@given(
    st.builds(Neighbor, st.just(DEVICE), ADDRESSES, MACS), options(flags=st.just(0x80), protocol=st.integers(1, 255))
)
def test_neighbor_comes_back(item: Neighbor, extra: tuple[tuple[str, object], ...]) -> None:
    item = Neighbor(item.device, item.address, item.mac, extra)  # type: ignore[arg-type]
    found = entries.decode_neighbor(HEADER + entries.encode_neighbor(item, INDEX), INDEX, DEVICE)
    assert found == item and found is not None and found.options == extra


@given(
    st.builds(
        ForwardingEntry,
        st.just(DEVICE),
        MACS,
        ADDRESSES,
        st.sampled_from([0x80, 0xC0]),
        options(flags=st.just(0x10), port=st.integers(1, 65535), vni=NUMBERS, via=NUMBERS, src_vni=NUMBERS),
    )
)
def test_forwarding_entry_comes_back(item: ForwardingEntry) -> None:
    assert entries.decode_fdb(HEADER + entries.encode_fdb(item, INDEX), INDEX, DEVICE) == item


def test_address_with_a_dotted_quad_in_other_tools_has_one_form() -> None:
    item = Neighbor(DEVICE, "::102:304", "02:00:00:00:00:02")
    assert entries.decode_neighbor(HEADER + entries.encode_neighbor(item, INDEX), INDEX, DEVICE) == item


def test_forwarding_entry_of_one_device_is_deleted_without_naming_a_destination() -> None:
    """The kernel answers a delete with a wrong destination with success and deletes nothing."""
    entry = ForwardingEntry(DEVICE, "02:00:00:00:00:02", "192.0.2.2")
    found = entries.decode_fdb(HEADER + entries.encode_fdb_key(entry, INDEX), INDEX, DEVICE)
    assert found is not None and found.destination == ""
    flood = ForwardingEntry(DEVICE, "00:00:00:00:00:00", "192.0.2.2")
    assert entries.decode_fdb(HEADER + entries.encode_fdb_key(flood, INDEX), INDEX, DEVICE) == flood


def test_forwarding_entry_is_sent_with_state_and_flag_of_flannel() -> None:
    """Without them the kernel refuses a replace, and an add would make state 0xc0."""
    body = entries.encode_fdb(ForwardingEntry(DEVICE, "02:00:00:00:00:02", "192.0.2.2"), INDEX)
    assert struct.unpack_from("=BxxxiHBB", body) == (entries.AF_BRIDGE, INDEX, 0x80, 0x02, 0)


@given(
    st.builds(
        Route,
        destination=st.ip_addresses(v=4).map(lambda ip: f"{ip}/32"),
        gateway=V4,
        device=st.just(DEVICE),
        onlink=st.booleans(),
        protocol=st.integers(0, 255),
        scope=st.integers(0, 255),
        metric=st.integers(0, 2**32 - 1),
        table=st.integers(1, 2**32 - 1),
        type=st.integers(1, 11),
        tos=st.integers(0, 255),
        source=st.one_of(st.just(""), V4),
        nexthop_id=st.just(0),
        options=options(metrics=st.just("0800020014050000"), realm=NUMBERS, preference=st.integers(1, 255)),
    )
)
def test_route_comes_back(item: Route) -> None:
    message = HEADER + entries.encode_route(item, INDEX)
    assert entries.decode_route(message, {INDEX: DEVICE}) == (INDEX, item)


@given(
    st.builds(
        Route,
        destination=st.tuples(st.ip_addresses(v=6), st.integers(1, 128)).map(
            lambda pair: str(ipaddress.IPv6Network((pair[0], pair[1]), strict=False))
        ),
        gateway=st.one_of(st.just(""), st.ip_addresses(v=6).map(str)),
        device=st.just(DEVICE),
        nexthop_id=st.sampled_from([0, 5]),
        onlink=st.booleans(),
        protocol=st.sampled_from([3, 4]),
        scope=st.just(0),
        metric=st.sampled_from([1024, 256]),
        table=st.sampled_from([254, 100]),
        type=st.sampled_from([1, 6]),
        tos=st.just(0),
        source=st.sampled_from(["", "2001:db8::1"]),
        options=options(realm=NUMBERS),
    )
)
def test_ipv6_route_comes_back(item: Route) -> None:
    """Those that are as ours are, and those that differ in anything."""
    if item.nexthop_id:
        # The object knows the way.
        item = item._replace(gateway="", device="", onlink=False)
    index = INDEX if item.device else 0
    message = HEADER + entries.encode_route(item, index)
    assert entries.decode_route(message, {INDEX: DEVICE}) == (index, item)


def test_route_through_a_nexthop_object_names_nothing_else() -> None:
    body = entries.encode_route(Route("10.244.2.0/24", "10.244.2.0", DEVICE, nexthop_id=9), INDEX)
    index, found = entries.decode_route(HEADER + body, {})
    assert (index, found.nexthop_id, found.gateway) == (0, 9, "")


def test_route_is_sent_with_protocol_boot_and_onlink() -> None:
    body = entries.encode_route(Route("10.244.2.0/24", "10.244.2.0", DEVICE), INDEX)
    family, prefix, _src, _tos, table, protocol, scope, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
    assert (family, prefix, table, protocol, scope, kind, flags) == (2, 24, 254, 3, 0, 1, 4)
