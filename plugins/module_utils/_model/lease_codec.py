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

from .errors import ReadError
from .lease import BACKEND_KEYS, FlannelConfig, Lease, compact, default_range, default_subnet_len

_SUBNET = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([0-9a-f:]+)-(\d+))?")
_MANAGED = ("Network", "SubnetLen", "SubnetMin", "SubnetMax", "Backend")


def config_key(prefix: str) -> str:
    return f"{prefix}/config"


def lease_key(prefix: str, lease: Lease) -> str:
    name = lease.subnet.replace("/", "-")
    return f"{prefix}/subnets/{name}" + (f"&{lease.subnet6.replace('/', '-')}" if lease.subnet6 else "")


def encode_config(config: FlannelConfig) -> str:
    """Every setting is written out: flannel's defaults differ between its releases and its documentation."""
    return compact(
        {
            **json.loads(config.others),
            "Network": config.network,
            "SubnetLen": config.subnet_len,
            "SubnetMin": config.subnet_min,
            "SubnetMax": config.subnet_max,
            "Backend": json.loads(config.backend),
        }
    )


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
    network = ipaddress.IPv4Network(fields["Network"])
    length = int(fields.get("SubnetLen") or default_subnet_len(network))
    first, last = default_range(network, length)
    return FlannelConfig(
        network=str(network),
        subnet_len=length,
        subnet_min=str(ipaddress.IPv4Address(fields.get("SubnetMin") or first)),
        subnet_max=str(ipaddress.IPv4Address(fields.get("SubnetMax") or last)),
        # Without a backend section flannel takes udp.
        backend=compact(_canonical_backend(fields.get("Backend") or {"Type": "udp"})),
        others=compact(others),
    )


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
        value["BackendData"] = json.loads(lease.data)
    if lease.data6:
        value["BackendV6Data"] = json.loads(lease.data6)
    return compact(value)


def decode_lease(name: str, text: str, life: str) -> Optional[Lease]:
    """A lease from the last part of its key and its value; None when the key is none of flannel's.

    A value that cannot be understood gives a lease of nobody: its subnet is taken all the same.
    """
    subnets = _subnets_of(name)
    if subnets is None:
        return None
    value = _mapping(text)
    return Lease(
        subnet=subnets[0],
        address=str(value.get("PublicIP") or ""),
        backend_type=str(value.get("BackendType") or ""),
        data=_canonical_data(value.get("BackendData")),
        life=life,
        subnet6=subnets[1],
        address6=str(value.get("PublicIPv6") or ""),
        data6=_canonical_data(value.get("BackendV6Data")),
    )


def _subnets_of(name: str) -> Optional[Tuple[str, str]]:
    found = _SUBNET.fullmatch(name)
    if found is None:
        return None
    try:
        subnet = str(ipaddress.IPv4Network(f"{found[1]}/{found[2]}"))
        return subnet, str(ipaddress.IPv6Network(f"{found[3]}/{found[4]}")) if found[3] else ""
    except ValueError:
        return None


def _mapping(text: str) -> Dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _canonical_data(data: Any) -> str:
    """Sorted keys (which is flannel's own order for vxlan) and a MAC address in lower case."""
    if data is None:
        return ""
    if isinstance(data, dict) and isinstance(data.get("VtepMAC"), str):
        data = {**data, "VtepMAC": data["VtepMAC"].lower()}
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def vxlan_data(vni: int, mac: str) -> str:
    """The backend data of a lease of backend vxlan."""
    return compact({"VNI": vni, "VtepMAC": mac})
