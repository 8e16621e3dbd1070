# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a packet filter holds, as items: tables, chains and sets, rules, and the entries of sets."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, NamedTuple, Tuple

from .datapath import TupleItem
from .ip_version import VERSIONS, IpVersion
from .item import BaseItem, Key


@dataclasses.dataclass(frozen=True)
class FilterObject(BaseItem):
    """What rules of ours are kept in: a table or a chain. ``backend`` is nftables, iptables-nft or iptables-legacy,
    ``table`` begins with nftables' name of the IP version, as in "ip6 nat"."""

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


class _FilterEntryFields(NamedTuple):
    backend: str
    table: str
    set: str
    entry: str


class FilterEntry(TupleItem, _FilterEntryFields):
    """One entry of a set of ours, in the words of ipset(8): "10.96.0.1,tcp:80". There are tens of thousands."""

    __slots__ = ()
    kind: ClassVar[str] = "filter_entry"

    @property
    def key(self) -> Key:
        return ("filter_entry", *self)

    def __str__(self) -> str:
        return f"{self.backend} {self.table} set {self.set}: {self.entry}"


def nft_name(version: IpVersion) -> str:
    """What nftables calls the tables of an IP version, and iptables begins the names of its commands with."""
    return f"ip{version.suffix}"


def version_of_table(table: str) -> IpVersion:
    """By the table of an item."""
    return next(version for version in VERSIONS if nft_name(version) == table.partition(" ")[0])


def _without_source(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "source"}
