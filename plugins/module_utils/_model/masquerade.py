# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for pod traffic: what is declared, what it means as rules, and rules of a packet filter as items.

The rules are those of flannel's traffic manager (pkg/trafficmngr/iptables/iptables.go), under names of our own.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Iterator, Mapping, Optional, Tuple

from .errors import SpecError
from .ip_version import IPV4, IPV6, VERSIONS, IpVersion
from .parse import Network, Section

PRESENT, ABSENT = "present", "absent"
AUTO, NFTABLES, IPTABLES = "auto", "nftables", "iptables"
BACKENDS = (AUTO, NFTABLES, IPTABLES)
# Our chains of iptables, in tables nat and filter.
POSTROUTING_CHAIN, FORWARD_CHAIN = "FAIRLEAD-POSTRTG", "FAIRLEAD-FWD"
# The bit that kube-proxy sets on packets it wants masqueraded by itself (its option iptables.masqueradeBit is 14).
KUBE_MARK = 0x4000
ACCEPT, RETURN, MASQUERADE = "accept", "return", "masquerade"
# RFC 5771, and RFC 4291 section 2.7.
_MULTICAST = {IPV4: ipaddress.ip_network("224.0.0.0/4"), IPV6: ipaddress.ip_network("ff00::/8")}


@dataclasses.dataclass(frozen=True)
class Match:
    """An address inside ``network``, or with ``negated`` outside of it."""

    network: Network
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class Rule:
    """All given conditions must hold. ``mark`` is both the mask and the wanted value of the packet's mark."""

    verdict: str
    source: Optional[Match] = None
    destination: Optional[Match] = None
    mark: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is wanted for one IP version; ``network`` holds all its pods.

    ``postrouting`` runs once a connection where the node sends on, ``forward`` on every forwarded packet.
    """

    version: IpVersion
    network: Network
    postrouting: Tuple[Rule, ...] = ()
    forward: Tuple[Rule, ...] = ()


@dataclasses.dataclass(frozen=True)
class MasqueradeSpec:
    """``rules`` has each IP version for which there are any; without them, nothing is wanted.

    ``remembered`` is what held the rules last (nftables, iptables-nft or iptables-legacy), "" for nothing.
    """

    backend: str
    rules: Tuple[Rules, ...] = ()
    remembered: str = ""

    @property
    def versions(self) -> Tuple[IpVersion, ...]:
        return tuple(rules.version for rules in self.rules)


def parse_masquerade(document: Mapping[str, Any]) -> MasqueradeSpec:
    """Shape: ``{state?, network?, subnet?, network6?, subnet6?, backend?, masquerade?, forward?, remembered?}``; state
    present takes the networks of one IP version or of both. ``remembered`` is what held the rules last."""
    section = Section(document)
    state = section.text("state", PRESENT, (PRESENT, ABSENT))
    backend = section.text("backend", AUTO, BACKENDS)
    masquerade, forward = section.boolean("masquerade", True), section.boolean("forward", True)
    if state == ABSENT:
        return MasqueradeSpec(backend)
    networks = list(_networks(section))
    remembered = section.text("remembered", "")
    section.finish()
    if not networks:
        raise SpecError("network", "is required, or network6 for pods that have IPv6 only")
    if not masquerade and not forward:
        return MasqueradeSpec(backend, remembered=remembered)
    rules = tuple(
        Rules(
            version,
            network,
            postrouting_rules(version, network, subnet) if masquerade else (),
            forward_rules(network) if forward else (),
        )
        for version, network, subnet in networks
    )
    return MasqueradeSpec(backend, rules, remembered)


def _networks(section: Section) -> Iterator[Tuple[IpVersion, Network, Network]]:
    """The declared IP versions, each with the network of all pods and that of this node's."""
    for version in VERSIONS:
        keys = [f"{name}{version.suffix}" for name in ("network", "subnet")]
        found = {key: _network(section, key, version) for key in keys if section.get(key, None) is not None}
        if len(found) == 1:
            (missing,), (given,) = set(keys) - set(found), found
            raise SpecError(section.at(missing), f"is required with {given}")
        if found:
            network, subnet = (found[key] for key in keys)
            # mypy cannot know that both are of one version.
            if not subnet.subnet_of(network):  # type: ignore[arg-type]
                raise SpecError(section.at(keys[1]), f"{subnet} is not inside {keys[0]} {network}")
            yield version, network, subnet


def _network(section: Section, key: str, version: IpVersion) -> Network:
    network = section.network(key)
    if network.version != version.number:
        raise SpecError(section.at(key), f"must be an {version} network, not {network}")
    if network.prefixlen == 0:
        raise SpecError(section.at(key), "must not be all addresses")
    return network


def postrouting_rules(version: IpVersion, network: Network, subnet: Network) -> Tuple[Rule, ...]:
    """Between pods, and to this node's pods, addresses stay. What leaves the network gets the node's address, and so
    does what enters another node's part of it from outside, for the answer to come back the same way. Hosts on the
    same link get multicast from the pod's own address."""
    inside, here = Match(network), Match(subnet)
    outside = Match(network, negated=True)
    return (
        Rule(RETURN, mark=KUBE_MARK),
        Rule(RETURN, here, inside),
        Rule(RETURN, inside, here),
        Rule(RETURN, outside, here),
        Rule(MASQUERADE, inside, Match(_MULTICAST[version], negated=True)),
        Rule(MASQUERADE, outside, inside),
    )


def forward_rules(network: Network) -> Tuple[Rule, ...]:
    inside = Match(network)
    return (Rule(ACCEPT, source=inside), Rule(ACCEPT, destination=inside))
