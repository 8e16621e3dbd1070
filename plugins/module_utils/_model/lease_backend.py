# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The backend in flannel's network configuration: as declared, and as it is written in etcd."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping

from .backend import BACKENDS, VNI_LIMIT, VNI_LIMIT6, VXLAN, WIREGUARD, refuse_foreign_options
from .errors import SpecError
from .parse import Section
from .wireguard import MODES, SEPARATE, WIREGUARD_PORT, WIREGUARD_PORT6, fingerprint, preshared_key, same_port_problem

# RFC 791: what every IPv4 host must accept. RFC 8200: without so much inside of VXLAN the kernel turns IPv6 off there.
_SMALLEST_MTU, _SMALLEST_MTU6 = 576, 1280 + 70
# How an option of the backend is called in flannel's configuration, in the order in which it is written.
BACKEND_KEYS = {
    "type": "Type",
    "vni": "VNI",
    "port": "Port",
    "mtu": "MTU",
    "gbp": "GBP",
    "learning": "Learning",
    "direct_routing": "DirectRouting",
    "psk": "PSK",
    "listen_port": "ListenPort",
    "listen_port6": "ListenPortV6",
    "keepalive": "PersistentKeepaliveInterval",
    "mode": "Mode",
}


def compact(data: Mapping[str, Any]) -> str:
    """JSON as Go's encoder writes it: no blanks, keys in the given order."""
    return json.dumps(data, separators=(",", ":"))


def parse_lease_backend(section: Section, dual: bool) -> str:
    """Compact JSON with the keys in the order of ``BACKEND_KEYS``. Raises SpecError."""
    kind = section.text("type", choices=BACKENDS)
    refuse_foreign_options(section, kind)
    backend: Dict[str, Any] = {"Type": kind}
    if kind == VXLAN:
        backend["VNI"] = section.integer("vni", 1, VNI_LIMIT6 if dual else VNI_LIMIT)
        backend["Port"] = section.integer("port", 1, 65535)
    elif kind != WIREGUARD and section.integer("mtu", 0, 65535, 0):
        # Flannel knows no such key of another backend.
        raise SpecError(section.at("mtu"), f"is no option of backend {kind} in etcd; it is each node's own affair")
    smallest = _SMALLEST_MTU6 if dual else _SMALLEST_MTU
    if section.integer("mtu", smallest, 65535, 0):
        backend["MTU"] = section.integer("mtu", smallest, 65535)
    for key in ("gbp", "learning", "direct_routing"):
        if section.get(key, None) is not None and (kind == VXLAN or section.boolean(key)):
            backend[BACKEND_KEYS[key]] = section.boolean(key)
    if kind == WIREGUARD:
        backend.update(_parse_wireguard(section, dual))
    section.finish()
    return compact(backend)


def _parse_wireguard(section: Section, dual: bool) -> Dict[str, Any]:
    """In the order of ``BACKEND_KEYS``. Whatever peers go by is written out."""
    found: Dict[str, Any] = {}
    if preshared_key(section.get("psk", ""), section.at("psk")):
        found["psk"] = section.get("psk")
    found["listen_port"] = section.integer("listen_port", 1, 65535, WIREGUARD_PORT)
    port6 = section.integer("listen_port6", 1, 65535, WIREGUARD_PORT6)
    if dual:
        found["listen_port6"] = port6
    found["keepalive"] = section.integer("keepalive", 0, 65535, 0)
    found["mode"] = section.text("mode", "", choices=MODES)
    problem = same_port_problem(found["mode"] or SEPARATE, found["listen_port"], port6) if dual else ""
    if problem:
        raise SpecError(section.at("listen_port6"), problem)
    # A file of each node's own, which is not for etcd.
    section.get("key_file", None)
    return {BACKEND_KEYS[key]: value for key, value in found.items() if value}


def without_psk(backend: str) -> str:
    """A backend as compact JSON in which a fingerprint stands for WireGuard's preshared key."""
    fields = json.loads(backend)
    if not isinstance(fields, dict) or not fields.get("PSK"):
        return backend
    return compact({**fields, "PSK": fingerprint(fields["PSK"])})
