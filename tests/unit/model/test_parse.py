# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Typed reading of declared data: what is accepted, and the path in every refusal."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import (
    Section,
    parse_address,
    parse_network,
    parse_node_name,
    unique,
)

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


def section(**data: Any) -> Section:
    return Section(data, "nodes[1]")


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda s: s.text("gone"), "nodes[1].gone: is required"),
        (lambda s: s.text("number"), "nodes[1].number: must be a string, not 5 (int)"),
        (lambda s: s.text("word", choices=["a", "b"]), "nodes[1].word: must be one of a, b, not 'up'"),
        (lambda s: s.boolean("word"), "nodes[1].word: must be true or false, not 'up' (str)"),
        (lambda s: s.integer("flag", 0, 9), "nodes[1].flag: must be a whole number, not True (bool)"),
        (lambda s: s.integer("number", 6, 9), "nodes[1].number: must be 6 to 9, not 5"),
        (lambda s: s.list("word"), "nodes[1].word: must be a list, not 'up' (str)"),
        (lambda s: s.list("map"), "nodes[1].map: must be a list"),
        (lambda s: s.section("word"), "nodes[1].word: must be a mapping"),
        (lambda s: s.sections("list"), "nodes[1].list[0]: must be a mapping"),
        (lambda s: s.mac("word"), "nodes[1].word: must be a MAC address"),
        (lambda s: s.interface("long"), "nodes[1].long: must be an interface name of 1 to 15 characters"),
        (lambda s: s.section("map").address("inner"), "nodes[1].map.inner: must be an IP address, not 'x'"),
    ],
)
def test_refusal_carries_the_path(read: Any, problem: str) -> None:
    data = section(word="up", number=5, flag=True, map={"inner": "x"}, list=[1], long="a" * 16)
    with pytest.raises(SpecError) as refusal:
        read(data)
    assert str(refusal.value).startswith(problem)


def test_null_counts_as_absent() -> None:
    assert section(mtu=None).integer("mtu", 576, 65535, 1500) == 1500


def test_default_may_lie_outside_the_range() -> None:
    assert section(mtu=0).integer("mtu", 576, 65535, 0) == 0


def test_mac_is_lower_case() -> None:
    assert section(mac="02:00:5E:10:00:0A").mac("mac") == "02:00:5e:10:00:0a"


def test_finish_names_the_unknown_key_and_the_known_ones() -> None:
    data = section(name="w1", adress="192.0.2.1")
    data.text("name")
    data.text("address", "")
    with pytest.raises(SpecError, match=r"nodes\[1\]\.adress: is unknown here; known are address, name"):
        data.finish()


def test_finish_accepts_keys_that_were_asked_for() -> None:
    data = section(name="w1")
    data.text("name")
    data.finish()


@given(st.ip_addresses(), st.data())
def test_network_round_trip(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_interface(f"{address}/{length}").network
    assert parse_network(str(network), "cidr") == network
    if address != network.network_address:
        with pytest.raises(SpecError, match=f"host bits set; the network is {network}"):
            parse_network(f"{address}/{length}", "cidr")


@pytest.mark.parametrize("value", ["10.0.0.0", "10.0.0.0/33", "x/8", 8, None, ""])
def test_no_network(value: Any) -> None:
    with pytest.raises(SpecError, match="cidr: must be a network like"):
        parse_network(value, "cidr")


@pytest.mark.parametrize("value", ["192.0.2.256", "192.0.2.1/24", "node", "", 3221225985, None])
def test_no_address(value: Any) -> None:
    with pytest.raises(SpecError, match="a: must be an IP address"):
        parse_address(value, "a")


@given(st.lists(LABEL, min_size=1, max_size=3).map(".".join))
def test_node_name(name: str) -> None:
    assert parse_node_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["W1", "w_1", "-w", "w-", "w..1", "w.", "", "a" * 64, ".".join(["a" * 63] * 4), "w1\n"]
)
def test_no_node_name(name: str) -> None:
    with pytest.raises(SpecError, match="RFC 1123"):
        parse_node_name(name, "name")


def test_unique_names_both_items() -> None:
    with pytest.raises(SpecError, match=r"nodes\[2\]\.name: name b is also that of nodes\[1\]\.name"):
        unique({"nodes[0].name": "a", "nodes[1].name": "b", "nodes[2].name": "b"}, "name")
