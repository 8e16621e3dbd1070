# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses and networks in objects, by the API server's rules since 1.36 (gate StrictIPCIDRValidation): no leading
zeros, no IPv4 address in the form of an IPv6 one, no host bits. What is returned is in canonical form."""

from __future__ import annotations

from typing import Any

from ..errors import SpecError
from ..ip_version import VERSIONS, IpVersion
from ..parse import Address, parse_address, parse_network


def service_address(value: Any, path: str) -> str:
    """An address that a service can have."""
    return str(_usable(value, path))


def endpoint_address(value: Any, path: str) -> str:
    """An address of an endpoint, or an external one: no link-local one either (the API server: ValidateEndpointIP)."""
    address = _usable(value, path)
    if address.is_link_local:
        raise SpecError(path, f"must not be link-local, as {value} is")
    return str(address)


def endpoint_address_of(version: IpVersion, value: Any, path: str) -> str:
    address = endpoint_address(value, path)
    if (":" in address) != (version.number == 6):
        raise SpecError(path, f"must be an {version} address, not {value!r}")
    return address


def source_range(value: Any, path: str) -> str:
    """Spaces around it are part of the API: once these values came from an annotation."""
    network = parse_network(value.strip() if isinstance(value, str) else value, path)
    if getattr(network.network_address, "ipv4_mapped", None) is not None:
        raise SpecError(path, f"must not be an IPv4 network in the form of an IPv6 one, as {value} is")
    return str(network)


def _usable(value: Any, path: str) -> Address:
    address = parse_address(value, path)
    if getattr(address, "ipv4_mapped", None) is not None:
        raise SpecError(path, f"must not be an IPv4 address in the form of an IPv6 one, as {value} is")
    # Link-local ones are for callers to judge.
    if not VERSIONS[address.version == 6].is_host(address) and not address.is_link_local:
        raise SpecError(path, f"must not be unspecified, loopback, multicast or reserved, as {value} is")
    return address
