# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy makes in the kernel, by its mode: names of chains, sets and tables, and objects with all it takes to
bring them back. Upstream's own clean-up knows no other services of IPVS than its own, and no sets of IPv6.

Source of the names: Kubernetes 1.36, pkg/proxy/{iptables,ipvs,nftables}. Chains of kubelet (KUBE-FIREWALL,
KUBE-KUBELET-CANARY, KUBE-MARK-DROP) and of kube-router are not among them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, ClassVar, FrozenSet, Hashable, Mapping, Sequence, Tuple

from .ipvs import service_parts
from .item import BaseItem
from .kube_proxy_options import IPTABLES, IPVS, MODES, NFTABLES
from .parse import Section, parse_network
from .service_node import NODE_PORTS

DEVICE, NFT_TABLE = "kube-ipvs0", "kube-proxy"
NONE = "none"
KEEPABLE = (*MODES, NONE)
_BOTH = frozenset((IPTABLES, IPVS))
_OF_IPVS, _OF_IPTABLES = frozenset((IPVS,)), frozenset((IPTABLES,))
# By table of iptables. Both modes fill chains of the first group, each with its own rules.
_CHAINS: Mapping[Tuple[str, str], FrozenSet[str]] = {
    **dict.fromkeys([("nat", "KUBE-SERVICES"), ("nat", "KUBE-POSTROUTING"), ("nat", "KUBE-MARK-MASQ")], _BOTH),
    **dict.fromkeys([("filter", "KUBE-FORWARD"), ("filter", "KUBE-PROXY-FIREWALL")], _BOTH),
    **dict.fromkeys([("nat", "KUBE-NODE-PORT"), ("nat", "KUBE-LOAD-BALANCER"), ("filter", "KUBE-NODE-PORT")], _OF_IPVS),
    ("filter", "KUBE-SOURCE-RANGES-FIREWALL"): _OF_IPVS,
    ("filter", "KUBE-IPVS-FILTER"): _OF_IPVS,
    ("filter", "KUBE-IPVS-OUT-FILTER"): _OF_IPVS,
    ("nat", "KUBE-NODEPORTS"): _OF_IPTABLES,
    ("filter", "KUBE-SERVICES"): _OF_IPTABLES,
    ("filter", "KUBE-EXTERNAL-SERVICES"): _OF_IPTABLES,
    ("filter", "KUBE-NODEPORTS"): _OF_IPTABLES,
    **{(table, "KUBE-PROXY-CANARY"): _OF_IPTABLES for table in ("mangle", "nat", "filter")},
}
# Rules that lead to the one chain that both modes have and reach in ways of their own, by their comments.
_SHARED_TARGET = "KUBE-PROXY-FIREWALL"
_JUMPS = {"kube-proxy firewall rules": IPVS, "kubernetes load balancer firewall": IPTABLES}
# Of single services and endpoints, with a hash behind.
_SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SEP-", "KUBE-XLB-")
_SETS = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
# linux/netfilter/ipset/ip_set.h, IPSET_MAXNAMELEN without the closing zero: kube-proxy cuts names there.
_LONGEST_SET = 31
SETS = frozenset(f"{prefix}{name}"[:_LONGEST_SET] for prefix in ("KUBE-", "KUBE-6-") for name in _SETS)


@dataclasses.dataclass(frozen=True)
class Chains(BaseItem):
    """Chains of kube-proxy in one table of iptables, with their rules, and the rules of other chains that lead there:
    chain, place in it from 1 on, and words."""

    kind: ClassVar[str] = "kube_proxy_chains"
    family: str
    table: str
    chains: Tuple[Tuple[str, Tuple[str, ...]], ...]
    jumps: Tuple[Tuple[str, int, str], ...] = ()

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.family, self.table)

    def to_dict(self) -> Any:
        names = [name for name, _rules in self.chains]
        return {"kind": self.kind, "family": self.family, "table": self.table, "chains": names}

    def __str__(self) -> str:
        rules = sum(len(rules) for _name, rules in self.chains)
        return f"{len(self.chains)} chains of kube-proxy with {rules} rules in table {self.table} of {self.family}"


@dataclasses.dataclass(frozen=True)
class Dumped(BaseItem):
    """Something that its own command dumps as ``text`` and restores from it."""

    name: str
    text: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def to_dict(self) -> Any:
        return {"kind": self.kind, "name": self.name, "lines": self.text.count("\n")}


@dataclasses.dataclass(frozen=True)
class IpSet(Dumped):
    """A set of ipset(8)."""

    kind: ClassVar[str] = "kube_proxy_set"

    def __str__(self) -> str:
        return f"set {self.name} with {max(self.text.count(chr(10)) - 1, 0)} entries"


@dataclasses.dataclass(frozen=True)
class NftTable(Dumped):
    """A table of nftables; the name is its family's (ip, ip6)."""

    kind: ClassVar[str] = "kube_proxy_table"

    def __str__(self) -> str:
        return f"table {self.name} {NFT_TABLE} of nftables"


@dataclasses.dataclass(frozen=True)
class StateWish:
    """Of kube-proxy that of mode ``keep`` stays. Virtual services in ``exclude`` are somebody else's, and those on
    an address of the node are kube-proxy's only with a port of ``first_port`` to ``last_port``."""

    keep: str
    exclude: Tuple[str, ...]
    first_port: int
    last_port: int


def parse_state_wish(document: Mapping[str, Any]) -> StateWish:
    """Shape: ``{keep, exclude_cidrs?, node_ports?: "30000-32767"}``."""
    section = Section(document)
    keep = section.text("keep", choices=KEEPABLE)
    exclude = [str(parse_network(value, path)) for path, value in section.entries("exclude_cidrs", []).items()]
    return StateWish(keep, tuple(exclude), *section.ports("node_ports", NODE_PORTS))


def goes(wish: StateWish, table: str, chain: str) -> bool:
    """Whether a chain is kube-proxy's, and of no mode that stays."""
    modes = _OF_IPTABLES if table == "nat" and chain.startswith(_SERVICE_CHAINS) else _CHAINS.get((table, chain))
    return modes is not None and wish.keep not in modes


def jump_goes(wish: StateWish, words: Sequence[str]) -> bool:
    """Whether a rule leads to a chain that both modes have in the way of the one that does not stay."""
    mode = next((mode for comment, mode in _JUMPS.items() if comment in words), None)
    return mode is not None and _SHARED_TARGET in words and wish.keep in _BOTH and wish.keep != mode


def sets_go(wish: StateWish) -> bool:
    return wish.keep != IPVS


def table_goes(wish: StateWish) -> bool:
    return wish.keep != NFTABLES


def is_kube_proxy_s(wish: StateWish, service: str, virtual: FrozenSet[str], local: FrozenSet[str]) -> bool:
    """Whether a virtual service is kube-proxy's. ``virtual`` are the addresses on its device, ``local`` all others,
    none where it has no device."""
    parts = service_parts(service)
    if parts.mark or _excluded(wish, parts.address):
        return False
    return parts.address in virtual or (parts.address in local and wish.first_port <= parts.port <= wish.last_port)


def _excluded(wish: StateWish, address: str) -> bool:
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network) for network in wish.exclude)
