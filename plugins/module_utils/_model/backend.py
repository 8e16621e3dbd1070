# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How packets travel between the nodes of an overlay: flannel's backends, their options and what they cost.

Names, device names and overheads are flannel's (pkg/backend/{vxlan,hostgw,ipip}).
"""

from __future__ import annotations

import dataclasses
from typing import Mapping, Tuple

from .errors import SpecError
from .parse import Section

VXLAN, HOST_GW, IPIP = "vxlan", "host-gw", "ipip"
BACKENDS = (VXLAN, HOST_GW, IPIP)
# Bytes that a backend puts around a packet: outer Ethernet, IPv4, UDP and VXLAN headers, as flannel counts them;
# nothing; an outer IPv4 header.
OVERHEADS: Mapping[str, int] = {VXLAN: 50, HOST_GW: 0, IPIP: 20}
IPIP_DEVICE = "flannel.ipip"
# VXLAN has 24 bits for it (RFC 7348), but the device is called flannel.<vni>, and a device name has 15 characters at
# the most, of which "flannel." takes 8.
VNI_LIMIT = 9999999
DEFAULT_VNI = 1
# Flannel's default is the kernel's, not IANA's 4789.
DEFAULT_PORT = 8472
# RFC 791: every IPv4 link carries packets of 68 bytes.
SMALLEST_MTU = 68
_SWITCHES = ("gbp", "learning", "direct_routing")
_OPTIONS: Mapping[str, Tuple[str, ...]] = {
    VXLAN: ("vni", "port", "mtu", *_SWITCHES),
    HOST_GW: ("mtu",),
    IPIP: ("mtu", "direct_routing"),
}


@dataclasses.dataclass(frozen=True)
class Backend:
    """``mtu`` is the underlay's, 0 for that of the interface. ``direct_routing``: peers on the same link are reached
    by plain routes. What a backend does not have keeps its default."""

    type: str = VXLAN
    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False

    @property
    def device(self) -> str:
        """The name of the backend's device on a node; "" for a backend without one."""
        return {VXLAN: f"flannel.{self.vni}", IPIP: IPIP_DEVICE}.get(self.type, "")

    @property
    def overhead(self) -> int:
        return OVERHEADS[self.type]

    @property
    def has_mac(self) -> bool:
        """Whether peers need to know the MAC address of a node's device."""
        return self.type == VXLAN

    @property
    def may_be_direct(self) -> bool:
        """Whether routes to peers may lead over the underlay's interface instead of a device of ours."""
        return self.type == HOST_GW or self.direct_routing


def parse_backend(section: Section) -> Backend:
    """Shape: ``{type?, vni?, port?, mtu?, gbp?, learning?, direct_routing?}``. Raises SpecError, also for an option
    that the backend does not have."""
    kind = section.text("type", VXLAN, choices=BACKENDS)
    refuse_foreign_options(section, kind)
    backend = Backend(
        type=kind,
        vni=section.integer("vni", 1, VNI_LIMIT, DEFAULT_VNI),
        port=section.integer("port", 1, 65535, DEFAULT_PORT),
        mtu=section.integer("mtu", SMALLEST_MTU + OVERHEADS[kind], 65535, 0),
        gbp=section.boolean("gbp", False),
        learning=section.boolean("learning", False),
        direct_routing=section.boolean("direct_routing", False),
    )
    section.finish()
    return backend


def refuse_foreign_options(section: Section, kind: str) -> None:
    """Options of other backends. One that is switched off is as good as not there."""
    for key in _OPTIONS[VXLAN]:
        if key not in _OPTIONS[kind] and section.get(key, None) not in (None, False):
            raise SpecError(section.at(key), f"is no option of backend {kind}; leave it out")
