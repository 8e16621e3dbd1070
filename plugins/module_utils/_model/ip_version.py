# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What differs between IPv4 and IPv6 for an overlay. A value of this type is what code carries along instead of being
written twice."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from typing import Iterable, List, Tuple

from .parse import Address, Network


@dataclasses.dataclass(frozen=True)
class IpVersion:
    """``suffix`` ends the names of declared fields ("address", "address6"); ``header`` is the length of the IP header
    in bytes, ``metric`` what the kernel gives a route that names none (linux/ipv6_route.h IP6_RT_PRIO_USER),
    ``connected_metric`` what it gives those that it makes itself for addresses (IP6_RT_PRIO_ADDRCONF)."""

    number: int
    family: int
    suffix: str
    bits: int
    header: int
    smallest_mtu: int
    metric: int
    connected_metric: int
    # Limits of flannel (pkg/subnet/config.go): longest pod network, longest subnet of a node.
    network_limit: int
    subnet_limit: int
    # Addresses that a node can have on an underlay: from, to, and what lies between that no node can be reached by.
    hosts: Tuple[int, int]
    hole: Tuple[int, int]

    def text(self, number: int) -> str:
        """An address of this version in canonical form."""
        return address_text(self.family, number.to_bytes(self.bits // 8, "big"))

    def is_host(self, address: Address) -> bool:
        """Whether a node can be reached by an address of this version. One of IPv4 in disguise is none of IPv6."""
        (low, high), (hole_low, hole_high), number = self.hosts, self.hole, int(address)
        mapped = getattr(address, "ipv4_mapped", None) is not None
        return low <= number <= high and not hole_low <= number <= hole_high and not mapped

    def host_problem(self, address: Address) -> str:
        """Why no other node reaches a node by an address, whichever version that is of; "" where they do."""
        if address.version != self.number:
            return f"is not an {self} address"
        return "" if self.is_host(address) else "is reached by no other node"

    def __str__(self) -> str:
        return f"IPv{self.number}"


# RFC 791: every link carries packets of 68 bytes. No node has an address of 0.0.0.0/32, 127.0.0.0/8 or 224.0.0.0/3.
IPV4 = IpVersion(4, socket.AF_INET, "", 32, 20, 68, 0, 0, 28, 30, (1, (0xE0 << 24) - 1), (0x7F << 24, (0x80 << 24) - 1))
# RFC 8200: 1280 bytes. Neither ::, ::1, ff00::/8, nor fe80::/10, which is only good together with an interface.
IPV6 = IpVersion(
    6,
    socket.AF_INET6,
    "6",
    128,
    40,
    1280,
    1024,
    256,
    124,
    126,
    (2, (0xFF << 120) - 1),
    (0xFE80 << 112, (0xFEC0 << 112) - 1),
)
VERSIONS = (IPV4, IPV6)
#: By the words that declare an IP version.
FAMILIES = {f"ipv{version.number}": version for version in VERSIONS}


def version_of_network(network: Network) -> IpVersion:
    return VERSIONS[network.version == 6]


def collapsed(networks: Iterable[Network]) -> List[Network]:
    """The same addresses in as few networks as there can be. All networks are of one version."""
    return list(ipaddress.collapse_addresses(networks))  # type: ignore[type-var]


def version_of(address: str) -> IpVersion:
    """That of an address or network in text form."""
    return IPV6 if ":" in address else IPV4


def address_text(family: int, packed: bytes) -> str:
    """The canonical form, as `ipaddress` prints it. inet_ntop is faster, but writes some IPv6 addresses with a dotted
    quad."""
    text = socket.inet_ntop(family, packed)
    return text if family == socket.AF_INET or "." not in text else str(ipaddress.IPv6Address(packed))
