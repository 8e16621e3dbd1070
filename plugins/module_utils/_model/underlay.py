# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which interface carries an overlay. The order is flannel's (pkg/ipmatch), except that the node's address is declared:

1. ``interface``, by name or by one of its addresses;
2. each of ``interface_regex``, against all addresses first and against names afterwards;
3. the interface and source address of the route to ``interface_can_reach``;
4. where none of these is declared, the interface that holds the node's address;
5. where the node is known by a public address that no interface holds, the one of the default route.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Callable, Iterator, List, Mapping, Optional, Pattern, Sequence, Tuple

from .errors import PrerequisiteError, SpecError
from .ip_version import IpVersion, version_of
from .parse import Section


@dataclasses.dataclass(frozen=True)
class Underlay:
    """The interface that carries the overlay. ``address`` is what packets leave with ("": the node's declared one);
    ``direct`` maps addresses of peers on the same link to the interface that leads there."""

    name: str
    mtu: int
    address: str = ""
    direct: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rules:
    """As declared, for one IP version. ``public_address`` is how peers reach this node where its interface has another
    address."""

    interface: Optional[str] = None
    patterns: Tuple[Pattern[str], ...] = ()
    can_reach: Optional[str] = None
    public_address: Optional[str] = None

    @property
    def declared(self) -> bool:
        return bool(self.interface or self.patterns or self.can_reach)


@dataclasses.dataclass(frozen=True)
class Interface:
    """An interface of the node with the addresses that can be an underlay's, the best one first. ``others`` are those
    of the other IP version, by which it can be found too."""

    name: str
    mtu: int
    addresses: Tuple[str, ...] = ()
    others: Tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Path:
    """Where a packet to an address goes. ``gateway`` is "" on the same link, ``source`` what it leaves with."""

    device: str
    gateway: str
    source: str = ""


Route = Callable[[str], Optional[Path]]


def parse_rules(section: Section, version: IpVersion) -> Rules:
    """Shape: ``{interface?, interface_regex?, interface_can_reach?, public_address?, public_address6?}``. Raises
    SpecError."""
    return Rules(
        interface=_interface(section),
        patterns=tuple(_patterns(section)),
        can_reach=_address(section, "interface_can_reach"),
        public_address=_address(section, f"public_address{version.suffix}", version),
    )


def _interface(section: Section) -> Optional[str]:
    value = section.get("interface", None)
    if isinstance(value, str) and ":" in value:
        return str(section.address("interface"))
    return section.interface("interface", None) or None


def _patterns(section: Section) -> Iterator[Pattern[str]]:
    for index, value in enumerate(section.list("interface_regex", [])):
        path = f"{section.at('interface_regex')}[{index}]"
        try:
            yield re.compile(value)
        except (re.error, TypeError) as error:
            raise SpecError(path, f"must be a regular expression, not {value!r}: {error}") from None


def _address(section: Section, key: str, version: Optional[IpVersion] = None) -> Optional[str]:
    if section.get(key, None) is None:
        return None
    address = section.address(key)
    if version is not None and address.version != version.number:
        raise SpecError(section.at(key), f"must be {version}, not IPv{address.version}")
    return str(address)


def choose(
    rules: Rules, node: str, interfaces: Sequence[Interface], route: Route, default: Optional[str]
) -> Tuple[Interface, str]:
    """The interface, and the address that packets leave with. ``node`` is the node's declared address, ``default`` the
    interface of the default route. Raises PrerequisiteError that tells what there is: at boot it may yet come."""
    held = [interface for interface in interfaces if node in interface.addresses]
    suffix = version_of(node).suffix
    if not held and rules.public_address != node:
        raise PrerequisiteError(
            f"node.address{suffix}: {node} is on no interface of this node; there are {_listed(interfaces)}. "
            f"Where peers reach the node by an address that is translated, declare that one as public_address{suffix}"
        )
    if rules.declared:
        interface, address = _declared(rules, interfaces, route)
    else:
        interface, address = held[0] if held else _of_default(interfaces, default), None
    if held:
        return interface, node
    if address is None and not interface.addresses:
        raise PrerequisiteError(f"interface: {interface.name} has no {version_of(node)} address to carry the overlay")
    return interface, address or interface.addresses[0]


def _declared(rules: Rules, interfaces: Sequence[Interface], route: Route) -> Tuple[Interface, Optional[str]]:
    """The first rule that finds an interface, and the address that it found it by. Raises PrerequisiteError."""
    ways = (_by_interface(rules, interfaces), _by_pattern(rules, interfaces), _by_route(rules, interfaces, route))
    for found in itertools.chain.from_iterable(ways):
        return found
    tried = [f"no {rules.interface}"] if rules.interface else []
    tried += [f"none that matches {pattern.pattern!r}" for pattern in rules.patterns]
    tried += [f"none that reaches {rules.can_reach}"] if rules.can_reach else []
    raise PrerequisiteError(
        f"interface: this node has {' and '.join(tried)} to carry the overlay; it has {_listed(interfaces, True)}"
    )


_Found = Iterator[Tuple[Interface, Optional[str]]]


def _by_interface(rules: Rules, interfaces: Sequence[Interface]) -> _Found:
    for interface in interfaces:
        if rules.interface in interface.addresses:
            yield interface, rules.interface
        elif rules.interface in (interface.name, *interface.others):
            yield interface, None


def _by_pattern(rules: Rules, interfaces: Sequence[Interface]) -> _Found:
    for pattern in rules.patterns:
        for interface in interfaces:
            for address in filter(pattern.search, interface.addresses):
                yield interface, address
            if any(map(pattern.search, interface.others)):
                yield interface, None
        for interface in interfaces:
            if pattern.search(interface.name):
                yield interface, None


def _by_route(rules: Rules, interfaces: Sequence[Interface], route: Route) -> _Found:
    path = route(rules.can_reach) if rules.can_reach else None
    for interface in interfaces:
        if path is not None and interface.name == path.device:
            yield interface, path.source if path.source in interface.addresses else None


def _of_default(interfaces: Sequence[Interface], default: Optional[str]) -> Interface:
    found = next((interface for interface in interfaces if interface.name == default), None)
    if found is None:
        raise PrerequisiteError(
            f"interface: this node has no default route to tell which one carries the overlay; declare it. There are "
            f"{_listed(interfaces, True)}"
        )
    return found


def require_direct(node: str, underlay: Interface, peers: Sequence[Tuple[str, str]], paths: Mapping[str, Path]) -> None:
    """That every node can be a gateway, as backend host-gw needs. ``peers`` are pairs of a label and an address. Raises
    PrerequisiteError naming the peer."""
    if node not in underlay.addresses:
        raise PrerequisiteError(
            f"node.address{version_of(node).suffix}: {node} is not on {underlay.name}, which carries the overlay; with "
            f"host-gw peers route to the address on that interface. It has {', '.join(underlay.addresses) or 'none'}"
        )
    for label, address in peers:
        path = paths.get(address)
        if path is None or path.gateway or path.device != underlay.name:
            raise PrerequisiteError(
                f"{label}: {address} {_where(path)}; backend host-gw needs all nodes on the link of {underlay.name}. "
                "Use vxlan or ipip with direct_routing where some are behind a router"
            )


def _where(path: Optional[Path]) -> str:
    if path is None:
        return "is not reached by any route of this node"
    return f"is behind gateway {path.gateway}" if path.gateway else f"is reached over {path.device}"


def _listed(interfaces: Sequence[Interface], with_bare: bool = False) -> str:
    shown: List[str] = [f"{address} ({each.name})" for each in interfaces for address in each.addresses]
    if with_bare:
        shown = [f"{each.name} ({', '.join(each.addresses) or 'no address'})" for each in interfaces]
    return ", ".join(shown) or "none"
