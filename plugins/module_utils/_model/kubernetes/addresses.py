# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses and networks in objects, by the API server's rules since 1.36 (gate StrictIPCIDRValidation): no leading
zeros, no IPv4 address in the form of an IPv6 one, no host bits. What is returned is in canonical form."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from ..errors import SpecError
from ..ip_version import VERSIONS, IpVersion, address_text, version_of
from ..parse import parse_address, parse_network


def service_address(value: Any, path: str) -> str:
    """An address that a service can have."""
    return plain_address(value) or _usable(value, path)


def endpoint_address(value: Any, path: str) -> str:
    """An address of an endpoint, or an external one: no link-local one either (the API server: ValidateEndpointIP)."""
    plain = plain_address(value)
    if plain:
        return plain
    address = _usable(value, path)
    if ipaddress.ip_address(address).is_link_local:
        raise SpecError(path, f"must not be link-local, as {value} is")
    return address


def endpoint_address_of(version: IpVersion, value: Any, path: str) -> str:
    address = endpoint_address(value, path)
    if version_of(address) is not version:
        raise SpecError(path, f"must be an {version} address, not {value!r}")
    return address


def plain_address(value: Any) -> str:
    """The canonical form of an address that everything can have; empty for anything else. `ipaddress` takes five times
    as long, and a cluster has a hundred thousand endpoints."""
    if not isinstance(value, str):
        return ""
    version = version_of(value)
    try:
        packed = socket.inet_pton(version.family, value)
    except (OSError, ValueError):
        return ""
    number, (low, high), (hole_low, hole_high) = int.from_bytes(packed, "big"), version.hosts, version.hole
    # 169.254.0.0/16, and IPv4 addresses in the form of IPv6 ones.
    special = number >> 16 == 0xA9FE or (number >> 32 == 0xFFFF and version.number == 6)
    usable = low <= number <= high and not hole_low <= number <= hole_high and not special
    return address_text(version.family, packed) if usable else ""


def source_range(value: Any, path: str) -> str:
    """Spaces around it are part of the API: once these values came from an annotation."""
    network = parse_network(value.strip() if isinstance(value, str) else value, path)
    if getattr(network.network_address, "ipv4_mapped", None) is not None:
        raise SpecError(path, f"must not be an IPv4 network in the form of an IPv6 one, as {value} is")
    return str(network)


def _usable(value: Any, path: str) -> str:
    address = parse_address(value, path)
    if getattr(address, "ipv4_mapped", None) is not None:
        raise SpecError(path, f"must not be an IPv4 address in the form of an IPv6 one, as {value} is")
    # Link-local ones are for callers to judge.
    if not VERSIONS[address.version == 6].is_host(address) and not address.is_link_local:
        raise SpecError(path, f"must not be unspecified, loopback, multicast or reserved, as {value} is")
    return str(address)
