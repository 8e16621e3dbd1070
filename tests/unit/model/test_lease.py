# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Declared leases: parsing and its refusals, and flannel's own forms of keys and values."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ReadError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import (
    PERMANENT,
    Lease,
    parse_lease_spec,
    vtep_mac,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease_codec import (
    decode_config,
    decode_lease,
    encode_config,
    encode_lease,
    lease_key,
)

BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}
# Written by a real flanneld.
FLANNELD_VALUE = (
    '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"}}'
)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "config": {"network": "10.244.0.0/16", "backend": BACKEND},
        "cluster_name": "lab",
        "nodes": [{"name": "cp1", "address": "192.0.2.11"}, {"name": "w1", "address": "192.0.2.14"}],
        "node": "w1",
        **changes,
    }


def config(**changes: Any) -> dict[str, Any]:
    return document(config={"network": "10.244.0.0/16", "backend": BACKEND, **changes})


def node(**changes: Any) -> dict[str, Any]:
    return document(nodes=[{"name": "w1", "address": "192.0.2.14", **changes}])


def test_defaults_of_flannel_are_written_out() -> None:
    spec = parse_lease_spec(document())
    assert json.loads(encode_config(spec.config)) == {
        "Network": "10.244.0.0/16",
        "SubnetLen": 24,
        "SubnetMin": "10.244.1.0",
        "SubnetMax": "10.244.255.0",
        "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472},
    }


@pytest.mark.parametrize(
    ("backend", "written"),
    [
        ({"type": "host-gw"}, '{"Type":"host-gw"}'),
        ({"type": "host-gw", "gbp": False}, '{"Type":"host-gw"}'),
        ({"type": "ipip"}, '{"Type":"ipip"}'),
        ({"type": "ipip", "direct_routing": True}, '{"Type":"ipip","DirectRouting":true}'),
        (
            {**BACKEND, "mtu": 1400, "gbp": True, "learning": True, "direct_routing": True},
            '{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1400,"GBP":true,"Learning":true,"DirectRouting":true}',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value["type"],
)
def test_backends_are_written_as_flannel_reads_them(backend: dict[str, Any], written: str) -> None:
    parsed = parse_lease_spec(config(backend=backend)).config
    assert parsed.backend == written and parsed.backend_type == backend["type"]
    assert decode_config(encode_config(parsed), "key") == parsed


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ({"type": "udp"}, "config.backend.type: must be one of vxlan, host-gw, ipip, wireguard, not 'udp'"),
        ({"type": "vxlan", "port": 8472}, "config.backend.vni: is required"),
        ({"type": "vxlan", "vni": 1}, "config.backend.port: is required"),
        ({"type": "host-gw", "vni": 1}, "config.backend.vni: is no option of backend host-gw; leave it out"),
        ({"type": "host-gw", "direct_routing": True}, "config.backend.direct_routing: is no option of backend host-gw"),
        ({"type": "ipip", "learning": True}, "config.backend.learning: is no option of backend ipip"),
        ({"type": "ipip", "mtu": 1400}, "config.backend.mtu: is no option of backend ipip in etcd"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_options_of_other_backends_are_refused(backend: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_lease_spec(config(backend=backend))
    assert str(refusal.value).startswith(message)


# Written by a real flanneld.
FLANNELD_HOST_GW = '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}'


def test_lease_without_data_is_read_and_written_unchanged() -> None:
    lease = decode_lease("10.244.1.0-24", FLANNELD_HOST_GW, PERMANENT)
    assert lease is not None and (lease.backend_type, lease.data, lease.halves[0].mac) == ("host-gw", "", "")
    assert encode_lease(lease) == FLANNELD_HOST_GW


@pytest.mark.parametrize(
    ("network", "length", "first", "last"),
    [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.244.0.0/22", 24, "10.244.1.0", "10.244.3.0"),
        ("10.244.0.0/23", 25, "10.244.0.128", "10.244.1.128"),
        ("10.244.0.0/28", 30, "10.244.0.4", "10.244.0.12"),
    ],
)
def test_default_range_depends_on_the_network(network: str, length: int, first: str, last: str) -> None:
    parsed = parse_lease_spec(config(network=network)).config
    assert (parsed.subnet_len, parsed.subnet_min, parsed.subnet_max) == (length, first, last)


def test_backend_options_keep_flannels_names_and_order() -> None:
    parsed = parse_lease_spec(config(backend={**BACKEND, "direct_routing": True, "mtu": 1400}))
    assert parsed.config.backend == '{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1400,"DirectRouting":true}'


def test_mac_comes_from_the_names_and_is_a_local_unicast_one() -> None:
    octets = hashlib.sha256(b"lab/cp1").digest()
    expected = [octets[0] & 0b11111100 | 0b10, *octets[1:6]]
    assert vtep_mac("lab", "cp1") == ":".join(f"{octet:02x}" for octet in expected)


@given(st.text(max_size=20), st.text(max_size=20))
def test_every_mac_is_unicast_and_locally_administered(cluster: str, name: str) -> None:
    assert int(vtep_mac(cluster, name)[:2], 16) & 3 == 2


@pytest.mark.parametrize(
    ("broken", "path"),
    [
        (config(network="10.244.0.0/29"), "config.network"),
        (config(network="fd00::/48"), "config.network"),
        (config(network="10.244.0.1/16"), "config.network"),
        (config(subnet_len=17), "config.subnet_len"),
        (config(subnet_len=31), "config.subnet_len"),
        (config(subnet_min="10.245.0.0"), "config.subnet_min"),
        (config(subnet_min="10.244.1.1"), "config.subnet_min"),
        (config(subnet_max="fd00::"), "config.subnet_max"),
        (config(subnet_min="10.244.9.0", subnet_max="10.244.8.0"), "config.subnet_max"),
        (config(backend={**BACKEND, "type": "udp"}), "config.backend.type"),
        # The device, flannel.10000000, would have too long a name.
        (config(backend={**BACKEND, "vni": 10000000}), "config.backend.vni"),
        (config(backend={**BACKEND, "port": 0}), "config.backend.port"),
        (config(backend={**BACKEND, "colour": 1}), "config.backend.colour"),
        (config(subnet_size=24), "config.subnet_size"),
        (node(address="10.244.3.1"), "nodes[0].address"),
        (node(address="fd00::1"), "nodes[0].address"),
        (node(address=None), "nodes[0].address"),
        (node(mac="01:00:5e:00:00:01"), "nodes[0].mac"),
        (node(mac="nonsense"), "nodes[0].mac"),
        (node(name="W1"), "nodes[0].name"),
        (node(subnet="10.244.0.0/24"), "nodes[0].subnet"),
        (node(subnet="10.244.3.0/25"), "nodes[0].subnet"),
        (node(addres="192.0.2.1"), "nodes[0].addres"),
        (document(node="w2"), "node"),
        (document(ttl=60), "ttl"),
        (document(ttl=-1), "ttl"),
        (document(prefix="coreos"), "prefix"),
        (document(prefix="/coreos/"), "prefix"),
        (document(nodes=[{"name": "w1", "address": "192.0.2.1"}] * 2), "nodes[1].name"),
        (
            document(nodes=[{"name": "w1", "address": "192.0.2.1"}, {"name": "w2", "address": "192.0.2.1"}]),
            "nodes[1].address",
        ),
    ],
)
def test_broken_input_is_refused_with_its_path(broken: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_lease_spec(broken)
    assert caught.value.path == path


def test_value_is_byte_for_byte_what_flanneld_writes() -> None:
    lease = Lease("10.244.3.0/24", "192.0.2.1", "vxlan", '{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"}')
    assert encode_lease(lease) == FLANNELD_VALUE
    assert lease_key("/coreos.com/network", lease) == "/coreos.com/network/subnets/10.244.3.0-24"


def test_value_of_flanneld_is_understood() -> None:
    lease = decode_lease("10.244.3.0-24", FLANNELD_VALUE, PERMANENT)
    assert lease is not None
    assert (lease.subnet, lease.address, lease.halves[0].mac) == ("10.244.3.0/24", "192.0.2.1", "66:3b:ef:92:63:92")
    assert encode_lease(lease) == FLANNELD_VALUE


def test_dual_stack_key_and_value_survive_reading_and_writing() -> None:
    name = "10.244.3.0-24&fd00:0:0:3::-64"
    value = (
        '{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"},'
        '"BackendV6Data":{"VNI":1,"VtepMAC":"66:3b:ef:92:63:93"}}'
    )
    lease = decode_lease(name, value, PERMANENT)
    assert lease is not None
    assert lease.subnet6 == "fd00:0:0:3::/64"
    assert encode_lease(lease) == value
    assert lease_key("/p", lease) == "/p/subnets/10.244.3.0-24&fd00:0:0:3::-64"


@pytest.mark.parametrize("value", ["", "[]", "null", '{"PublicIP":null}', "not json", '{"BackendData":"text"}'])
def test_value_that_cannot_be_understood_still_takes_the_subnet(value: str) -> None:
    lease = decode_lease("10.244.3.0-24", value, PERMANENT)
    assert lease is not None
    assert (lease.subnet, lease.address, lease.halves[0].mac) == ("10.244.3.0/24", "", "")


@pytest.mark.parametrize("name", ["", "config", "10.244.3.0", "10.244.3.0/24", "10.244.3.5-24", "1.2.3.4-99", "x-24"])
def test_foreign_key_is_no_lease(name: str) -> None:
    assert decode_lease(name, FLANNELD_VALUE, PERMANENT) is None


def test_configuration_is_read_as_leniently_as_flannel_does() -> None:
    text = '{"network":"10.244.0.0/16","EnableNFTables":true,"backend":{"type":"vxlan","port":8472,"vni":1}}'
    read = decode_config(text, "/p/config")
    declared = parse_lease_spec(document()).config
    assert read.others == '{"EnableNFTables":true}'
    assert (read.network, read.subnet_len, read.subnet_min, read.subnet_max, read.backend) == (
        declared.network,
        declared.subnet_len,
        declared.subnet_min,
        declared.subnet_max,
        declared.backend,
    )
    assert json.loads(encode_config(read))["EnableNFTables"] is True


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Network":"x"}', '{"Network":"10.0.0.0/16","SubnetLen":"y"}'])
def test_configuration_that_is_none_is_an_error_naming_the_key(text: str) -> None:
    with pytest.raises(ReadError, match=r"/p/config"):
        decode_config(text, "/p/config")
