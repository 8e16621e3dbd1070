# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Declared leases of dual stack: flannel's rules for IPv6, what is refused, and flannel's forms of keys and values."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ReadError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import (
    LEASED,
    PERMANENT,
    Lease,
    NodeHalf,
    parse_lease_spec,
    parse_nodes,
    vtep_mac,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import (
    backend_data,
    decode_config,
    decode_lease,
    encode_config,
    encode_lease,
    lease_key,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import Section

BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}
NETWORKS = {"network": "10.244.0.0/16", "network6": "fd00:10:244::/48"}
NODES = [
    {"name": "cp1", "address": "192.0.2.11", "address6": "2001:db8::11"},
    {"name": "w1", "address": "192.0.2.14", "address6": "2001:db8::14"},
]
# Written by a real flanneld (tests/fixtures/flannel).
NAME = "10.244.1.0-24&fd00:10:244:1::-64"
VALUE = (
    '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"02:f1:00:00:04:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:f1:00:00:06:01"}}'
)


def document(**changes: Any) -> dict[str, Any]:
    base = {"config": {**NETWORKS, "backend": BACKEND}, "cluster_name": "lab", "nodes": NODES, "node": "w1"}
    return {**base, **changes}


def config(**changes: Any) -> dict[str, Any]:
    return document(config={**NETWORKS, "backend": BACKEND, **changes})


def node(**changes: Any) -> dict[str, Any]:
    return document(nodes=[NODES[0], {**NODES[1], **changes}])


def test_configuration_is_written_with_flannels_names_and_order() -> None:
    assert encode_config(parse_lease_spec(document()).config) == (
        '{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0",'
        '"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fd00:10:244:1::",'
        '"IPv6SubnetMax":"fd00:10:244:ffff::","Backend":{"Type":"vxlan","VNI":1,"Port":8472}}'
    )


@pytest.mark.parametrize(
    ("network", "length", "first", "last"),
    [
        # Flannel's rules, pkg/subnet/config.go.
        ("fd00::/8", 64, "fd00:0:0:1::", "fdff:ffff:ffff:ffff::"),
        ("fd00::/62", 64, "fd00:0:0:1::", "fd00:0:0:3::"),
        ("fd00::/63", 65, "fd00::8000:0:0:0", "fd00:0:0:1:8000::"),
        ("fd00::/64", 66, "fd00::4000:0:0:0", "fd00::c000:0:0:0"),
        ("fd00::/112", 114, "fd00::4000", "fd00::c000"),
        ("fd00::/124", 126, "fd00::4", "fd00::c"),
    ],
)
def test_default_range_depends_on_the_network(network: str, length: int, first: str, last: str) -> None:
    parsed = parse_lease_spec(config(network6=network)).config
    assert (parsed.subnet6_len, parsed.subnet6_min, parsed.subnet6_max) == (length, first, last)
    assert (parsed.subnet_len, parsed.subnet_min, parsed.subnet_max) == (24, "10.244.1.0", "10.244.255.0")


@given(st.integers(8, 124), st.integers(0, 2**128 - 1), st.data())
def test_any_range_is_read_back_as_it_was_declared(prefix: int, number: int, data: st.DataObject) -> None:
    base = (0xFD << 120) | (number & ((1 << 120) - 1))
    network = ipaddress.IPv6Network((base, prefix), strict=False)
    length = data.draw(st.integers(prefix + 2, 126))
    size = 1 << (128 - length)
    count = 1 << (length - prefix)
    low, high = sorted(data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2)))
    ends = [str(network.network_address + index * size) for index in (low, high)]
    declared = config(network6=str(network), subnet6_len=length, subnet6_min=ends[0], subnet6_max=ends[1])
    parsed = parse_lease_spec({**declared, "nodes": NODES}).config
    _pool, pool6 = parsed.pools
    assert decode_config(encode_config(parsed), "key") == parsed
    assert pool6.holds(f"{ends[0]}/{length}") and pool6.holds(f"{ends[1]}/{length}")
    assert low == 0 or not pool6.holds(f"{network.network_address + (low - 1) * size}/{length}")
    assert not pool6.holds(f"{ends[0]}/{length - 1 if low % 2 == 0 else length + 1}")


@pytest.mark.parametrize(
    ("broken", "path", "words"),
    [
        (config(network=None), "config.network", "give the peers to overlay_network directly"),
        (config(network6=None, subnet6_len=64), "config.subnet6_len", "of no use without network6"),
        (config(network6=None, subnet6_min="fd00:10:244:5::"), "config.subnet6_min", "of no use without network6"),
        (config(network6=""), "config.network6", "must be a network"),
        (config(network6="fd00::/125"), "config.network6", "must be /124 or shorter, not /125"),
        (config(network6="10.245.0.0/16"), "config.network6", "must be an IPv6 network"),
        (config(network="fd01::/48"), "config.network", "must be an IPv4 network"),
        (config(network6="fd00:10:244::1/48"), "config.network6", "host bits"),
        (config(network6="fe80::/64"), "config.network6", "that pods can be in"),
        (config(network6="ff05::/64"), "config.network6", "that pods can be in"),
        (config(network6="::ffff:10.0.0.0/104"), "config.network6", "that pods can be in"),
        (config(network6="::/0"), "config.network6", "that pods can be in"),
        (config(subnet6_len=49), "config.subnet6_len", "must be 50 to 126"),
        (config(subnet6_len=127), "config.subnet6_len", "must be 50 to 126"),
        (config(subnet6_min="fd00:10:245::"), "config.subnet6_min", "is not inside the network"),
        (config(subnet6_min="10.244.9.0"), "config.subnet6_min", "must be an IPv6 address"),
        (config(subnet6_max="fd00:10:244:1::1"), "config.subnet6_max", "is not the first address of a /64"),
        (
            config(subnet6_min="fd00:10:244:9::", subnet6_max="fd00:10:244:8::"),
            "config.subnet6_max",
            "fd00:10:244:8:: is below subnet6_min fd00:10:244:9::",
        ),
        (config(backend={"type": "ipip"}), "config.network6", "backend ipip carries IPv4 only"),
        # The device, flannel-v6.10000, would have too long a name.
        (config(backend={**BACKEND, "vni": 10000}), "config.backend.vni", "must be 1 to 9999"),
        # The kernel turns IPv6 off on a device with an MTU below 1280.
        (config(backend={**BACKEND, "mtu": 1349}), "config.backend.mtu", "must be 1350 to"),
        (node(address6=None), "nodes[1].address6", "is required for node w1"),
        (node(address6=""), "nodes[1].address6", "is required for node w1"),
        (node(address6="192.0.2.1"), "nodes[1].address6", "must be an IPv6 address"),
        (node(address="2001:db8::1"), "nodes[1].address", "must be an IPv4 address"),
        (node(address6="fd00:10:244:3::1"), "nodes[1].address6", "inside the pod network"),
        (node(address6="fe80::1"), "nodes[1].address6", "address of a node on the underlay"),
        (node(address6="fe80::1%eth0"), "nodes[1].address6", "must be an IP address"),
        (node(address6="2001:db8::1%eth0"), "nodes[1].address6", "must be an IP address"),
        (node(address6="::1"), "nodes[1].address6", "address of a node on the underlay"),
        (node(address6="::ffff:192.0.2.1"), "nodes[1].address6", "address of a node on the underlay"),
        (node(address6="ff02::1"), "nodes[1].address6", "address of a node on the underlay"),
        (node(address="127.0.0.1"), "nodes[1].address", "address of a node on the underlay"),
        (node(address6="2001:DB8:0::11"), "nodes[1].address6", "is also that of nodes[0].address6"),
        (node(mac6="01:00:5e:00:00:01"), "nodes[1].mac6", "multicast"),
        (node(mac6="x"), "nodes[1].mac6", "must be a MAC address"),
        (node(mac="02:00:00:00:00:01", mac6="02:00:00:00:00:01"), "nodes[1].mac6", "also that of nodes[1].mac"),
        (node(mac6=vtep_mac("lab", "cp1")), "nodes[1].mac6", "also that of nodes[0].mac"),
        (node(subnet6="fd00:10:244::/64"), "nodes[1].subnet6", "is not a /64 from fd00:10:244:1::"),
        (node(subnet6="fd00:10:244:3::/65"), "nodes[1].subnet6", "is not a /64"),
        (node(subnet6="10.244.3.0/24"), "nodes[1].subnet6", "must be an IPv6 network"),
        (node(adress6="2001:db8::1"), "nodes[1].adress6", "is unknown here"),
        (
            document(
                nodes=[{**NODES[0], "subnet6": "fd00:10:244:3::/64"}, {**NODES[1], "subnet6": "fd00:10:244:3::/64"}]
            ),
            "nodes[1].subnet6",
            "also that of nodes[0].subnet6",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.replace(" ", "-"),
)
def test_broken_input_is_refused_with_its_path(broken: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_lease_spec(broken)
    assert caught.value.path == path
    assert words in caught.value.problem


def test_address6_without_a_network6_is_read_and_of_no_consequence() -> None:
    spec = parse_lease_spec(config(network6=None))
    assert len(spec.config.pools) == 1
    assert [len(member.halves) for member in spec.nodes] == [1, 1]
    assert [len(member.halves) for member in parse_nodes(Section(document()))] == [2, 2]
    with pytest.raises(SpecError, match=r"nodes\[1\]\.address6"):
        parse_lease_spec({**config(network6=None), "nodes": node(address6="x")["nodes"]})


def test_both_devices_have_mac_addresses_that_come_from_the_names() -> None:
    octets = hashlib.sha256(b"lab/cp1/IPv6").digest()
    expected = ":".join(f"{octet:02x}" for octet in [octets[0] & 0b11111100 | 0b10, *octets[1:6]])
    (first, _second) = parse_nodes(Section(document()))
    assert (first.mac, first.mac6) == (vtep_mac("lab", "cp1"), vtep_mac("lab", "cp1", IPV6))
    assert first.mac6 == expected


@given(st.text(max_size=20), st.text(max_size=20))
def test_mac_addresses_of_both_devices_differ(cluster: str, name: str) -> None:
    made = {vtep_mac(cluster, name), vtep_mac(cluster, name, IPV6)}
    assert len(made) == 2 and all(int(mac[:2], 16) & 3 == 2 for mac in made)


@pytest.mark.parametrize(
    ("backend", "data"),
    [(BACKEND, '{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}'), ({"type": "host-gw"}, "")],
    ids=["vxlan", "host-gw"],
)
def test_backend_data_of_a_half_comes_from_that_half(backend: dict[str, Any], data: str) -> None:
    half = NodeHalf(IPV6, "2001:db8::1", "02:00:00:00:00:06", None)
    assert backend_data(parse_lease_spec(config(backend=backend)).config, half) == data


def test_value_is_byte_for_byte_what_flanneld_writes() -> None:
    lease = Lease(
        subnet="10.244.1.0/24",
        address="192.0.2.1",
        backend_type="vxlan",
        data='{"VNI":1,"VtepMAC":"02:f1:00:00:04:01"}',
        subnet6="fd00:10:244:1::/64",
        address6="2001:db8::1",
        data6='{"VNI":1,"VtepMAC":"02:f1:00:00:06:01"}',
    )
    assert (lease_key("/p", lease), encode_lease(lease)) == (f"/p/subnets/{NAME}", VALUE)
    assert decode_lease(NAME, VALUE, LEASED) == lease
    assert [(half.version, half.mac) for half in lease.halves] == [
        (IPV4, "02:f1:00:00:04:01"),
        (IPV6, "02:f1:00:00:06:01"),
    ]
    assert str(lease) == (
        "lease 10.244.1.0/24&fd00:10:244:1::/64 of 192.0.2.1&2001:db8::1 vxlan "
        '{"VNI":1,"VtepMAC":"02:f1:00:00:04:01"}&{"VNI":1,"VtepMAC":"02:f1:00:00:06:01"} leased'
    )


@pytest.mark.parametrize(
    "value",
    [
        VALUE.replace("PublicIPv6", "publicipv6").replace("BackendV6Data", "backendV6data"),
        VALUE.replace("2001:db8::1", "2001:0DB8:0:0::1"),
        VALUE.replace("02:f1:00:00:06:01", "02-F1-00-00-06-01"),
        VALUE.replace("02:f1:00:00:06:01", "02f1.0000.0601"),
        VALUE.replace('"VtepMAC":"02:f1:00:00:06:01"', '"vtepmac":"02:F1:00:00:06:01","More":[]').replace(
            ',"More":[]', ""
        ),
    ],
)
def test_value_is_read_as_leniently_as_flannel_does(value: str) -> None:
    lease = decode_lease(NAME, value, LEASED)
    assert lease is not None and encode_lease(lease) == VALUE


@pytest.mark.parametrize(
    "name",
    [
        "10.244.1.0-24&",
        "10.244.1.0-24&fd00:10:244:1::",
        "10.244.1.0-24&fd00:10:244:1::-129",
        "10.244.1.0-24&fd00:10:244:1::1-64",
        "fd00:10:244:1::-64",
        "10.244.1.0-24&fd00:10:244:1::-64&fd00:10:244:2::-64",
        # Written in another way than flannel does, it would be written again in flannel's, and be there twice.
        "10.244.1.0-24&fd00:10:244:1:0:0:0:0-64",
        "10.244.1.0-24&fd00:10:244:1::-064",
        "10.244.1.0-024",
    ],
)
def test_foreign_key_is_no_lease(name: str) -> None:
    assert decode_lease(name, VALUE, LEASED) is None


def test_lease_without_the_other_half_says_so() -> None:
    lease = decode_lease(NAME.split("&", maxsplit=1)[0], VALUE, PERMANENT)
    assert lease is not None and lease.half(IPV6) is None and lease.half(IPV4) is not None
    assert lease.address6 == "2001:db8::1"


def test_configuration_is_read_as_leniently_as_flannel_does() -> None:
    text = (
        '{"network":"10.244.3.0/16","enableipv6":true,"ipv6network":"fd00:10:244:7::/48","EnableIPv4":true,'
        '"ipv6subnetmin":"FD00:10:244:5::","Other":1,"backend":{"type":"host-gw"}}'
    )
    read = decode_config(text, "/p/config")
    declared = parse_lease_spec(config(backend={"type": "host-gw"}, subnet6_min="fd00:10:244:5::")).config
    assert read.others == '{"Other":1}'
    assert read.pools == declared.pools and read.ipv4


@pytest.mark.parametrize("switch", [{}, {"EnableIPv6": False}, {"EnableIPv6": None}])
def test_ipv6_that_is_not_switched_on_is_none(switch: dict[str, Any]) -> None:
    read = decode_config(json.dumps({"Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", **switch}), "key")
    assert len(read.pools) == 1 and "IPv6" not in encode_config(read)


def test_ipv4_that_is_switched_off_is_not_what_is_wanted() -> None:
    declared = parse_lease_spec(document()).config
    text = encode_config(declared).replace('"EnableIPv6"', '"EnableIPv4":false,"EnableIPv6"')
    read = decode_config(text, "key")
    assert read != declared and json.loads(encode_config(read)) == json.loads(text)


@pytest.mark.parametrize(
    "broken",
    [
        {"EnableIPv6": True},
        {"EnableIPv6": "yes", "IPv6Network": "fd00::/48"},
        {"EnableIPv6": True, "IPv6Network": "10.0.0.0/8"},
        {"EnableIPv6": True, "IPv6Network": "fd00::/48", "IPv6SubnetLen": "y"},
        {"EnableIPv6": True, "IPv6Network": "fd00::/48", "IPv6SubnetMin": "10.0.0.0"},
    ],
)
def test_configuration_that_flannel_cannot_read_is_an_error_naming_the_key(broken: dict[str, Any]) -> None:
    with pytest.raises(ReadError, match=r"/p/config"):
        decode_config(json.dumps({"Network": "10.244.0.0/16", **broken}), "/p/config")
