# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases and the network configuration as flannel writes them into etcd: keys, and JSON values byte for byte.

Form of keys and values: pkg/subnet/etcd/registry.go and pkg/lease of flannel. Reading is as lenient as flannel's own
(keys of the configuration in any case); writing gives the one form that flannel itself would have written.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any, Dict, Mapping, Optional, Tuple

from .backend import VXLAN, WIREGUARD
from .errors import ReadError
from .ip_version import IPV4, IPV6, VERSIONS, IpVersion
from .lease import (
    FlannelConfig,
    Half,
    Lease,
    NodeHalf,
    Pool,
    default_range,
    default_subnet_len,
    lease_of,
)
from .lease_backend import BACKEND_KEYS, compact
from .parse import Network
from .wireguard import SEPARATE, WIREGUARD_PORT, WIREGUARD_PORT6

_SUBNET = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([0-9a-f:]+)-(\d+))?")
# What the network and the length, the first and the last of its subnets are called, and what switches them on.
_POOL_KEYS = {
    version: (f"{prefix}Network", f"{prefix}SubnetLen", f"{prefix}SubnetMin", f"{prefix}SubnetMax")
    for version, prefix in ((IPV4, ""), (IPV6, "IPv6"))
}
_SWITCHES = {IPV4: "EnableIPv4", IPV6: "EnableIPv6"}
_MANAGED = (*_POOL_KEYS[IPV4], *_POOL_KEYS[IPV6], *_SWITCHES.values(), "Backend")
# The address and the backend's data in a lease's value.
_LEASE_KEYS = {IPV4: ("PublicIP", "BackendData"), IPV6: ("PublicIPv6", "BackendV6Data")}


_DATA_KEYS = {"vni": "VNI", "vtepmac": "VtepMAC", "publickey": "PublicKey", "port": "Port"}
# What Go's net.ParseMAC takes besides the form with colons.
_OTHER_MAC = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2}){5}|[0-9a-f]{4}(\.[0-9a-f]{4}){2}")
_NETWORKS: Dict[IpVersion, Any] = {IPV4: ipaddress.IPv4Network, IPV6: ipaddress.IPv6Network}


def config_key(prefix: str) -> str:
    return f"{prefix}/config"


def lease_key(prefix: str, lease: Lease) -> str:
    return f"{prefix}/subnets/{lease_name(lease.subnet, lease.subnet6)}"


def lease_name(subnet: str, subnet6: str = "") -> str:
    """The last part of a lease's key."""
    return "&".join(part.replace("/", "-") for part in (subnet, subnet6) if part)


def encode_config(config: FlannelConfig) -> str:
    """Every setting is written out: flannel's defaults differ between its releases and its documentation.

    What is switched on by default is not said to be.
    """
    data: Dict[str, Any] = json.loads(config.others)
    if not config.ipv4:
        data[_SWITCHES[IPV4]] = False
    for pool in config.pools:
        if pool.version is IPV6:
            data[_SWITCHES[IPV6]] = True
        data.update(zip(_POOL_KEYS[pool.version], pool[1:]))
    return compact({**data, "Backend": json.loads(config.backend)})


def decode_config(text: str, key: str) -> FlannelConfig:
    """Raises ReadError naming the key when the value is not a network configuration."""
    try:
        data = json.loads(text)
        known = {name.lower(): name for name in _MANAGED}
        fields = {known[name.lower()]: value for name, value in data.items() if name.lower() in known}
        others = {name: value for name, value in sorted(data.items()) if name.lower() not in known}
        return _config_of(fields, others)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReadError(
            f"etcd key {key}: is not a flannel network configuration ({type(error).__name__}: {error}); "
            "correct or delete it, or choose another prefix"
        ) from None


def _config_of(fields: Mapping[str, Any], others: Mapping[str, Any]) -> FlannelConfig:
    pools = [_pool_of(fields, version) for version in VERSIONS if version is IPV4 or _is_on(fields, version, False)]
    return FlannelConfig(
        # Without a backend section flannel takes udp.
        backend=compact(_canonical_backend(fields.get("Backend") or {"Type": "udp"})),
        others=compact(others),
        ipv4=_is_on(fields, IPV4, True),
        **{key: value for pool in pools for key, value in pool.fields.items()},
    )


def _is_on(fields: Mapping[str, Any], version: IpVersion, default: bool) -> bool:
    value = fields.get(_SWITCHES[version])
    if not isinstance(value, (bool, type(None))):
        raise ValueError(f"{_SWITCHES[version]} is not true or false")
    return default if value is None else value


def _pool_of(fields: Mapping[str, Any], version: IpVersion) -> Pool:
    network_key, len_key, min_key, max_key = _POOL_KEYS[version]
    # Flannel does not mind host bits.
    network: Network = _NETWORKS[version](fields[network_key], strict=False)
    length = int(fields.get(len_key) or default_subnet_len(network))
    first, last = default_range(network, length)
    address = type(network.network_address)
    low, high = address(fields.get(min_key) or first), address(fields.get(max_key) or last)
    return Pool(version, str(network), length, str(low), str(high))


def _canonical_backend(data: Mapping[str, Any]) -> Dict[str, Any]:
    known = {name.lower(): name for name in BACKEND_KEYS.values()}
    named = {known.get(key.lower(), key): value for key, value in data.items()}
    order = list(BACKEND_KEYS.values())
    ranks = {key: order.index(key) if key in order else len(order) for key in named}
    return {key: named[key] for key in sorted(named, key=lambda key: (ranks[key], key))}


def encode_lease(lease: Lease) -> str:
    value: Dict[str, Any] = {"PublicIP": lease.address, "PublicIPv6": lease.address6 or None}
    if lease.backend_type:
        value["BackendType"] = lease.backend_type
    if lease.data:
        value["BackendData"] = _as_written(lease.data)
    if lease.data6:
        value["BackendV6Data"] = _as_written(lease.data6)
    return compact(value)


def _as_written(data: str) -> Any:
    """In flannel's order, which for WireGuard has the key first."""
    value = json.loads(data)
    if isinstance(value, dict) and "PublicKey" in value:
        return {"PublicKey": value["PublicKey"], **value}
    return value


def decode_lease(name: str, text: str, life: str) -> Optional[Lease]:
    """A lease from the last part of its key and its value; None when the key is none of flannel's.

    A value that cannot be understood gives a lease of nobody: its subnets are taken all the same.
    """
    subnets = _subnets_of(name)
    if subnets is None:
        return None
    value = _mapping(text)
    halves = []
    for version, subnet in zip(VERSIONS, subnets):
        address_key, data_key = (value.get(key.lower()) for key in _LEASE_KEYS[version])
        halves.append(Half(version, subnet, _canonical_address(address_key, version), _canonical_data(data_key)))
    return lease_of(halves, str(value.get("backendtype") or ""), life)


def _subnets_of(name: str) -> Optional[Tuple[str, str]]:
    """That of IPv4, and that of IPv6 or an empty string."""
    found = _SUBNET.fullmatch(name)
    if found is None:
        return None
    try:
        subnet = str(ipaddress.IPv4Network(f"{found[1]}/{found[2]}"))
        subnets = subnet, str(ipaddress.IPv6Network(f"{found[3]}/{found[4]}")) if found[3] else ""
    except ValueError:
        return None
    # Written in another way than flannel's, it would be another key that is written or deleted later.
    return subnets if lease_name(*subnets) == name else None


def _mapping(text: str) -> Dict[str, Any]:
    """With keys in lower case, for flannel takes them in any."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return {key.lower(): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def _canonical_address(value: Any, version: IpVersion) -> str:
    """What is no address is left as it is, for others to judge."""
    text = str(value or "")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return str(address) if address.version == version.number else text


def _canonical_data(data: Any) -> str:
    """Sorted keys (which is flannel's own order for vxlan), and a MAC address in the form that flannel writes."""
    if data is None:
        return ""
    if isinstance(data, dict):
        data = {_DATA_KEYS.get(key.lower(), key): value for key, value in data.items()}
        if isinstance(data.get("VtepMAC"), str):
            data["VtepMAC"] = _canonical_mac(data["VtepMAC"].lower())
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def _canonical_mac(text: str) -> str:
    digits = re.sub(r"[-.]", "", text)
    if not _OTHER_MAC.fullmatch(text):
        return text
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2))


def backend_data(config: FlannelConfig, half: NodeHalf) -> str:
    """What a lease says about the device of one half of a node, for the others to reach it; "" where there is none."""
    backend = json.loads(config.backend)
    if config.backend_type == WIREGUARD:
        return wireguard_data(half.public_key, _port(backend, half.version))
    return vxlan_data(backend["VNI"], half.mac) if config.backend_type == VXLAN else ""


def _port(backend: Mapping[str, Any], version: IpVersion) -> int:
    """The port that the device of an IP version listens on, which with one device for both is that of IPv4. (There
    flannel itself tells the port of the device that it does not have.)"""
    separate = str(backend.get("Mode") or SEPARATE) == SEPARATE
    if version is IPV6 and separate:
        return int(backend.get("ListenPortV6") or WIREGUARD_PORT6)
    return int(backend.get("ListenPort") or WIREGUARD_PORT)


def wireguard_data(public_key: str, port: int) -> str:
    """The backend data of a lease of backend wireguard."""
    return compact({"Port": port, "PublicKey": public_key})


def vxlan_data(vni: int, mac: str) -> str:
    """The backend data of a lease of backend vxlan."""
    return compact({"VNI": vni, "VtepMAC": mac})
