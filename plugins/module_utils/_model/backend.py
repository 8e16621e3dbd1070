# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How packets travel between the nodes of an overlay: flannel's backends, their options and what they cost.

Names, device names and overheads are flannel's (pkg/backend/{vxlan,hostgw,ipip,wireguard}).
"""

from __future__ import annotations

import dataclasses
from typing import Mapping, Tuple

from .errors import SpecError
from .ip_version import IPV4, IPV6, IpVersion
from .parse import Section
from .secret import NO_SECRET, Secret
from .wireguard import (
    KEY_FILE,
    MODES,
    SEPARATE,
    WIREGUARD_DEVICE,
    WIREGUARD_DEVICE6,
    WIREGUARD_OVERHEAD,
    WIREGUARD_PORT,
    WIREGUARD_PORT6,
    preshared_key,
)

VXLAN, HOST_GW, IPIP, WIREGUARD = "vxlan", "host-gw", "ipip", "wireguard"
BACKENDS = (VXLAN, HOST_GW, IPIP, WIREGUARD)
# Bytes of the headers of the inner Ethernet frame, UDP and VXLAN, which come to those of IP.
_VXLAN_HEADERS = 14 + 8 + 8
IPIP_DEVICE = "flannel.ipip"
IPV6_PREFIX = "flannel-v6"
# VXLAN has 24 bits for it (RFC 7348), but the device is called flannel.<vni>, and a device name has 15 characters at
# the most, of which "flannel." takes 8.
VNI_LIMIT = 9999999
# The one for IPv6 is called flannel-v6.<vni>.
VNI_LIMIT6 = 9999
DEFAULT_VNI = 1
# Flannel's default is the kernel's, not IANA's 4789.
DEFAULT_PORT = 8472
_SWITCHES = ("gbp", "learning", "direct_routing")
_OPTIONS: Mapping[str, Tuple[str, ...]] = {
    VXLAN: ("vni", "port", "mtu", *_SWITCHES),
    HOST_GW: ("mtu",),
    IPIP: ("mtu", "direct_routing"),
    WIREGUARD: ("mtu", "psk", "listen_port", "listen_port6", "keepalive", "mode", "key_file"),
}


@dataclasses.dataclass(frozen=True)
class Backend:
    """``mtu`` is the underlay's, 0 for that of the interface. ``direct_routing``: peers on the same link are reached
    by plain routes. ``psk`` and what follows are WireGuard's: the key that all nodes share in advance, UDP ports, the
    seconds between packets that keep a way through address translation open (0: none), one of ``MODES``, and the file
    with the node's private key. What a backend does not have keeps its default."""

    type: str = VXLAN
    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False
    psk: Secret = NO_SECRET
    listen_port: int = WIREGUARD_PORT
    listen_port6: int = WIREGUARD_PORT6
    keepalive: int = 0
    mode: str = SEPARATE
    key_file: str = KEY_FILE

    def device(self, version: IpVersion) -> str:
        """The name of the backend's device on a node for an IP version; "" for a backend without one."""
        vxlan = f"flannel.{self.vni}" if version is IPV4 else f"{IPV6_PREFIX}.{self.vni}"
        wireguard = WIREGUARD_DEVICE6 if version is IPV6 and self.mode == SEPARATE else WIREGUARD_DEVICE
        return {VXLAN: vxlan, IPIP: IPIP_DEVICE, WIREGUARD: wireguard}.get(self.type, "")

    @property
    def devices(self) -> Tuple[str, ...]:
        """The names of all devices that the backend can have on a node."""
        names = [self.device(IPV4), *([self.device(IPV6)] if self.type in (VXLAN, WIREGUARD) else [])]
        return tuple(dict.fromkeys(name for name in names if name))

    def port_of(self, device: str) -> int:
        """The UDP port that a WireGuard device of ours listens on."""
        return self.listen_port6 if device == WIREGUARD_DEVICE6 else self.listen_port

    @property
    def has_mac(self) -> bool:
        """Whether peers need to know the MAC address of a node's device."""
        return self.type == VXLAN

    @property
    def may_be_direct(self) -> bool:
        """Whether routes to peers may lead over the underlay's interface instead of a device of ours."""
        return self.type == HOST_GW or self.direct_routing


def parse_backend(section: Section) -> Backend:
    """Shape: ``{type?, mtu?}`` and the options of the backend. Raises SpecError, also for an option that the backend
    does not have."""
    kind = section.text("type", VXLAN, choices=BACKENDS)
    refuse_foreign_options(section, kind)
    backend = Backend(
        type=kind,
        vni=section.integer("vni", 1, VNI_LIMIT, DEFAULT_VNI),
        port=section.integer("port", 1, 65535, DEFAULT_PORT),
        mtu=section.integer("mtu", IPV4.smallest_mtu + overhead(kind, IPV4), 65535, 0),
        gbp=section.boolean("gbp", False),
        learning=section.boolean("learning", False),
        direct_routing=section.boolean("direct_routing", False),
        psk=preshared_key(section.get("psk", ""), section.at("psk")),
        listen_port=section.integer("listen_port", 1, 65535, WIREGUARD_PORT),
        listen_port6=section.integer("listen_port6", 1, 65535, WIREGUARD_PORT6),
        keepalive=section.integer("keepalive", 0, 65535, 0),
        mode=section.text("mode", SEPARATE, choices=MODES),
        key_file=section.text("key_file", KEY_FILE),
    )
    if not backend.key_file.startswith("/"):
        raise SpecError(section.at("key_file"), f"must be absolute, not {backend.key_file!r}")
    section.finish()
    return backend


def overhead(kind: str, version: IpVersion) -> int:
    """Bytes that a backend of this type puts around a packet on an underlay of this IP version."""
    fixed = {HOST_GW: 0, WIREGUARD: WIREGUARD_OVERHEAD}
    return fixed[kind] if kind in fixed else version.header + (_VXLAN_HEADERS if kind == VXLAN else 0)


def refuse_foreign_options(section: Section, kind: str) -> None:
    """Options of other backends. One that is switched off is as good as not there."""
    for key in dict.fromkeys(key for options in _OPTIONS.values() for key in options):
        if key not in _OPTIONS[kind] and section.get(key, None) not in (None, False):
            raise SpecError(section.at(key), f"is no option of backend {kind}; leave it out")
