# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for pod traffic: what is declared, what it means as rules, and rules of a packet filter as items.

The rules are those of flannel's traffic manager (pkg/trafficmngr/iptables/iptables.go), under names of our own.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, ClassVar, Dict, Hashable, Mapping, Optional, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Section

PRESENT, ABSENT = "present", "absent"
AUTO, NFTABLES, IPTABLES = "auto", "nftables", "iptables"
BACKENDS = (AUTO, NFTABLES, IPTABLES)
# Our chains of iptables, in tables nat and filter.
POSTROUTING_CHAIN, FORWARD_CHAIN = "FAIRLEAD-POSTRTG", "FAIRLEAD-FWD"
# The bit that kube-proxy sets on packets it wants masqueraded by itself (its option iptables.masqueradeBit is 14).
KUBE_MARK = 0x4000
# Hosts on the same link get multicast from the pod's own address (RFC 5771).
MULTICAST = ipaddress.IPv4Network("224.0.0.0/4")
ACCEPT, RETURN, MASQUERADE = "accept", "return", "masquerade"


@dataclasses.dataclass(frozen=True)
class Match:
    """An address inside ``network``, or with ``negated`` outside of it."""

    network: ipaddress.IPv4Network
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """All given conditions must hold. ``mark`` is both the mask and the wanted value of the packet's mark."""

    verdict: str
    source: Optional[Match] = None
    destination: Optional[Match] = None
    mark: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class MasqueradeSpec:
    """``network`` holds all pods, ``subnet`` those of this node. Without rules, nothing is wanted.

    ``postrouting`` runs once a connection where the node sends on, ``forward`` on every forwarded packet.
    ``remembered`` is what held the rules last (nftables, iptables-nft or iptables-legacy), "" for nothing.
    """

    backend: str
    postrouting: Tuple[Rule, ...] = ()
    forward: Tuple[Rule, ...] = ()
    remembered: str = ""

    @property
    def empty(self) -> bool:
        return not self.postrouting and not self.forward


@dataclasses.dataclass(frozen=True)
class FilterObject(BaseItem):
    """What rules of ours are kept in: a table or a chain. ``backend`` is nftables, iptables-nft or iptables-legacy."""

    kind: ClassVar[str] = "filter_object"
    backend: str
    table: str
    name: str
    definition: str = ""
    source: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.backend, self.table, self.name)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.backend, self.table, self.name, self.definition)))

    def to_dict(self) -> Dict[str, Any]:
        return _without_source(super().to_dict())


@dataclasses.dataclass(frozen=True)
class FilterRule(BaseItem):
    """One rule in one of our chains, or a jump of another chain to ours (``position`` then counts jumps only).

    ``source`` is what the backend takes to make the rule again.
    """

    kind: ClassVar[str] = "filter_rule"
    backend: str
    table: str
    chain: str
    position: int
    rule: str
    source: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.backend, self.table, self.chain, self.position)

    def __str__(self) -> str:
        return f"{self.backend} {self.table} {self.chain} {self.position}: {self.rule}"

    def to_dict(self) -> Dict[str, Any]:
        return _without_source(super().to_dict())


def _without_source(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "source"}


def parse_masquerade(document: Mapping[str, Any]) -> MasqueradeSpec:
    """Shape: ``{state?, network, subnet, backend?, masquerade?, forward?, remembered?}``; networks only for state
    present. ``remembered`` is what held the rules last."""
    section = Section(document)
    state = section.text("state", PRESENT, (PRESENT, ABSENT))
    backend = section.text("backend", AUTO, BACKENDS)
    masquerade, forward = section.boolean("masquerade", True), section.boolean("forward", True)
    if state == ABSENT:
        return MasqueradeSpec(backend)
    network, subnet = _network(section, "network"), _network(section, "subnet")
    remembered = section.text("remembered", "")
    section.finish()
    if not subnet.subnet_of(network):
        raise SpecError("subnet", f"{subnet} is not inside network {network}")
    postrouting = postrouting_rules(network, subnet) if masquerade else ()
    return MasqueradeSpec(backend, postrouting, forward_rules(network) if forward else (), remembered)


def _network(section: Section, key: str) -> ipaddress.IPv4Network:
    network = section.network(key)
    if not isinstance(network, ipaddress.IPv4Network):
        raise SpecError(section.at(key), f"must be an IPv4 network, not {network}")
    if network.prefixlen == 0:
        raise SpecError(section.at(key), "must not be all addresses")
    return network


def postrouting_rules(network: ipaddress.IPv4Network, subnet: ipaddress.IPv4Network) -> Tuple[Rule, ...]:
    """Between pods, and to this node's pods, addresses stay. What leaves the network gets the node's address, and so
    does what enters another node's part of it from outside, for the answer to come back the same way."""
    inside, here = Match(network), Match(subnet)
    outside = Match(network, negated=True)
    return (
        Rule(RETURN, mark=KUBE_MARK),
        Rule(RETURN, here, inside),
        Rule(RETURN, inside, here),
        Rule(RETURN, outside, here),
        Rule(MASQUERADE, inside, Match(MULTICAST, negated=True)),
        Rule(MASQUERADE, outside, inside),
    )


def forward_rules(network: ipaddress.IPv4Network) -> Tuple[Rule, ...]:
    inside = Match(network)
    return (Rule(ACCEPT, source=inside), Rule(ACCEPT, destination=inside))
