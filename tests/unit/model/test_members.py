# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Entries of nodes: taken at one go or field by field, the outcome is the same."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model import members
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import Section

NETWORK, NETWORK6 = ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00:10:244::/48")
ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.just([]), st.just({}))
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.sampled_from(
        ["192.0.2.2", "192.0.2.02", "192.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "10.244.9.9", "fd00::1"]
    ),
    st.sampled_from([" 192.0.2.2", "192.0.2.2 ", "192.0.2.2\n", "\u0661.2.3.4", "1.2.3.4x", "0x1.2.3.4"]),
    ODD,
)
SUBNETS = st.one_of(
    st.integers(0, 255).map(lambda third: f"10.244.{third}.0/24"),
    st.builds(lambda net, bits: f"10.244.{net}.0/{bits}", st.integers(0, 255), st.integers(-1, 40)),
    st.sampled_from(
        ["10.244.1.0/024", "10.244.1.0/+24", "10.244.1.0/ 24", "10.244.1.0", "10.244.1.1/24", "10.1.0.0/24"]
    ),
    st.sampled_from(["10.244.1.0/24/24", "10.244.1.0/255.255.255.0", "10.244.01.0/24", "10.244.1.0/2_4", "fd00::/64"]),
    ODD,
)
MACS = st.one_of(
    st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")),
    st.sampled_from(["02:AA:00:00:00:01", "02-00-00-00-00-01", "00:00:00:00:00:00", "01:00:5e:00:00:01", "02:00"]),
    ODD,
)
NAMES = st.one_of(st.none(), st.sampled_from(["a", "a.b", "A", "a_b", "-a", "a\n", "a" * 64]), ODD)
ADDRESSES6 = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number & (2**64 - 1) << 32))),
    st.sampled_from(
        ["2001:db8::2", "2001:DB8::2", "2001:db8:0:0::2", "2001:db8::02", "::", "::1", "fe80::1", "ff02::1"]
    ),
    st.sampled_from(
        ["::ffff:192.0.2.2", "::192.0.2.2", "64:ff9b::192.0.2.2", "fe80::1%eth0", "fd00:10:244::9", "1.2.3.4"]
    ),
    ODD,
)
SUBNETS6 = st.one_of(
    st.integers(0, 2**16 - 1).map(lambda fourth: f"fd00:10:244:{fourth:x}::/64"),
    st.builds(lambda net, bits: f"fd00:10:244:{net:x}::/{bits}", st.integers(0, 2**16 - 1), st.integers(-1, 140)),
    st.sampled_from(["fd00:10:244:0::/64", "fd00:10:244::/064", "fd00:10:244:1::1/64", "fd00:1::/64", "10.244.1.0/24"]),
    ODD,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "address": ADDRESSES,
        "subnet": SUBNETS,
        "mac": MACS,
        "address6": ADDRESSES6,
        "subnet6": SUBNETS6,
        "mac6": MACS,
        "name": NAMES,
        "backend_type": st.just("vxlan"),
        "ttl": st.just(5),
        "nmae": st.just("a"),
    },
)
READERS = [members.MemberReader(network, with_mac) for network in (NETWORK, NETWORK6) for with_mac in (True, False)]


def outcome(
    read: Callable[[Section, bool], members.Member], entry: dict[str, Any], named: bool
) -> members.Member | str:
    try:
        return read(Section(entry, "peers[0]"), named)
    except SpecError as error:
        return str(error)


@settings(max_examples=3000, deadline=None)
@given(st.sampled_from(READERS), ENTRIES, st.booleans())
def test_entry_comes_to_the_same_both_ways(reader: members.MemberReader, entry: dict[str, Any], named: bool) -> None:
    assert outcome(reader.read, entry, named) == outcome(reader._careful, entry, named)


@given(st.integers(1, 200), st.integers(2, 250))
def test_usual_entry_takes_the_short_way(node: int, number: int) -> None:
    mac = f"02:00:00:00:00:{number:02x}"
    ipv4 = {"address": f"192.0.2.{number}", "subnet": f"10.244.{node}.0/24", "mac": mac}
    ipv6 = {"address6": f"2001:db8::{number:x}", "subnet6": f"fd00:10:244:{node:x}::/64", "mac6": mac}
    for reader in READERS:
        entry = {**ipv4, **ipv6}
        assert reader._usual(entry, False) == outcome(reader._careful, entry, False)
