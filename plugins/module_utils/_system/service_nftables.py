# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for services by nftables: tables of our own with sets. A new connection that is to be masqueraded gets a mark
before IPVS rewrites where it goes to, and loses it where its source is rewritten."""

from __future__ import annotations

import ipaddress
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple, Union

from .._model.filter_items import FilterEntry, nft_name
from .._model.ip_version import VERSIONS, IpVersion
from .._model.item import Item, State, state_of
from .._model.service_nat import MARK, SETS, ServiceNat
from .nftables import BACKEND, Nftables, items_of, of_version, replacement

TABLE = "fairlead-services"
COMMENT = "fairlead services"
# nft(8), table 7: mangle is -150, srcnat 100. IPVS takes packets of this node at -99 (ip_vs_core.c).
# Chains of type nat see the first packet of a connection alone. That one loses its mark where its source is rewritten,
# by us before all others; later ones would keep it, which are new as well until the first answer comes.
_MARKING = {"name": "prerouting", "type": "nat", "hook": "prerouting", "prio": -150, "policy": "accept"}
_MARKING_OWN = {"name": "marking", "type": "nat", "hook": "output", "prio": -150, "policy": "accept"}
_POSTROUTING = {"name": "postrouting", "type": "nat", "hook": "postrouting", "prio": 99, "policy": "accept"}
_INPUT = {"name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
_OUTPUT = {"name": "output", "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}
_PARTS = {"ip": "{address}", "port": "inet_proto inet_service", "net": "{address}"}
_PROTOCOLS = ("tcp", "udp", "sctp")
_MASQUERADE = {"masquerade": {"flags": "fully-random"}}
_Expression = Dict[str, Any]


class ServiceNftables(Nftables):
    """Tables ``ip fairlead-services`` and ``ip6 fairlead-services``."""

    table = TABLE

    def read(self, version: IpVersion) -> State:
        """Raises MissingError without the command, UnsupportedError when the kernel has no such tables."""
        entries: List[Dict[str, Any]] = []
        elements: List[Item] = []
        for entry in self.listed(version):
            found = entry.get("set")
            if found is not None:
                elements += _elements(version, found)
                entry = {"set": {name: value for name, value in found.items() if name != "elem"}}
            entries.append(entry)
        return state_of([*items_of(TABLE, entries), *elements])

    def probe(self, version: IpVersion, check: bool) -> None:
        """Have the kernel look at a table with the parts that ours has, and drop it."""
        entries = [_renamed(entry) for entry in _entries(ServiceNat(version))]
        self.run([{"add": entry} for entry in entries], ["-c"])

    def wanted(self, nat: ServiceNat) -> State:  # type: ignore[override]
        place = f"{nft_name(nat.version)} {TABLE}"
        entries = [FilterEntry(BACKEND, place, name, entry) for name in SETS for entry in getattr(nat, name)]
        return state_of([*items_of(TABLE, _entries(nat)), *entries])

    def write(self, table: str, have: State, want: State) -> None:
        """In one transaction."""
        commands: List[Dict[str, Any]] = []
        for version in VERSIONS:
            old, new = of_version(version, have), of_version(version, want)
            commands += replacement(TABLE, version, old, new)
            # What a set has goes with it.
            kept = {str(key[-1])[4:] for key, item in old.items() if new.get(key) == item and key[-1] != "table"}
            commands += _changes(version, have, want, kept)
        if commands:
            self.run(commands)


def _entries(nat: ServiceNat) -> List[Dict[str, Any]]:
    """Table, sets without elements, chains and rules."""
    family = nft_name(nat.version)
    ours = {"family": family, "table": TABLE}
    entries: List[Dict[str, Any]] = [{"table": {"family": family, "name": TABLE}}]
    entries += [{"set": {**ours, "name": name, **_form(name, nat.version)}} for name in SETS]
    marking, guard = _marking_rules(nat), _guard(nat)
    chains = ((_MARKING, marking), (_MARKING_OWN, marking), (_POSTROUTING, _source_rules(nat)), (_INPUT, guard))
    for chain, rules in (*chains, (_OUTPUT, guard)):
        entries.append({"chain": {**ours, **chain}})
        place = {**ours, "chain": chain["name"], "comment": COMMENT}
        entries += [{"rule": {**place, "expr": expressions}} for expressions in rules]
    return entries


def _form(name: str, version: IpVersion) -> Dict[str, Any]:
    """Type of a set, and its flags."""
    parts = SETS[name].type.partition(":")[2].split(",")
    types = [word for part in parts for word in _PARTS[part].format(address=f"ipv{version.number}_addr").split()]
    return {"type": types if len(types) > 1 else types[0], **({"flags": ["interval"]} if "net" in parts else {})}


def _marking_rules(nat: ServiceNat) -> List[List[_Expression]]:
    source, place = _payload(nft_name(nat.version), "saddr"), _place(nat.version)
    pods = () if nat.masquerade_all else nat.pods
    return [
        [_in(place, "outside"), _give_mark()],
        [_in([source], "addresses"), _give_mark()],
        *([_match("==", source, _prefix(str(network))), {"return": None}] for network in pods),
        [_in(place, "cluster"), _give_mark()],
    ]


def _source_rules(nat: ServiceNat) -> List[List[_Expression]]:
    source = _payload(nft_name(nat.version), "saddr")
    marked = _match("==", {"&": [_mark(), MARK]}, MARK)
    unmark = {"mangle": {"key": _mark(), "value": {"&": [_mark(), 0xFFFFFFFF ^ MARK]}}}
    return [
        [_in([*_place(nat.version), source], "hairpins"), _give_mark()],
        [marked, unmark, _MASQUERADE],
    ]


def _guard(nat: ServiceNat) -> List[List[_Expression]]:
    family = nft_name(nat.version)
    place = _place(nat.version)
    refused = {"reject": {"type": "icmp" if nat.version is VERSIONS[0] else "icmpv6", "expr": "port-unreachable"}}
    new = _match("in", {"ct": {"key": "state"}}, "new")
    protocols = _match("==", _protocol(), {"set": list(_PROTOCOLS)})
    return [
        [_in(place, "guarded"), _in([*place, _payload(family, "saddr")], "allowed", "!="), {"drop": None}],
        [protocols, _in(place[:1], "addresses"), new, _in(place, "known", "!="), refused],
    ]


def _payload(protocol: str, field: str) -> _Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def _protocol() -> _Expression:
    return {"meta": {"key": "l4proto"}}


def _place(version: IpVersion) -> List[_Expression]:
    """Where a packet goes to, as entries of sets have it."""
    return [_payload(nft_name(version), "daddr"), _protocol(), _payload("th", "dport")]


def _mark() -> _Expression:
    return {"meta": {"key": "mark"}}


def _give_mark() -> _Expression:
    return {"mangle": {"key": _mark(), "value": {"|": [_mark(), MARK]}}}


def _match(operator: str, left: Any, right: Any) -> _Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def _in(parts: Sequence[_Expression], name: str, operator: str = "==") -> _Expression:
    return _match(operator, parts[0] if len(parts) == 1 else {"concat": list(parts)}, f"@{name}")


def _prefix(network: str) -> Any:
    address, length = network.split("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _renamed(entry: Mapping[str, Any]) -> Dict[str, Any]:
    ((what, content),) = entry.items()
    name = "name" if what == "table" else "table"
    return {what: {**content, name: f"{TABLE}-probe"}}


def _elements(version: IpVersion, found: Mapping[str, Any]) -> Iterator[FilterEntry]:
    place = f"{nft_name(version)} {TABLE}"
    for element in found.get("elem", []):
        parts = element["concat"] if isinstance(element, dict) and "concat" in element else [element]
        yield FilterEntry(BACKEND, place, str(found["name"]), _entry_text(parts))


def _entry_text(parts: Sequence[Any]) -> str:
    """In the words of ipset(8)."""
    if len(parts) == 1:
        return str(parts[0])
    address, protocol, port, *source = parts
    return ",".join([f"{address},{protocol}:{port}", *map(_network_text, source)])


def _network_text(part: Any) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    if isinstance(part, dict) and "range" in part:
        low, high = part["range"]
        return f"{low}-{high}"
    return str(part)


def _element(entry: str) -> Any:
    """As JSON of nft."""
    if "," not in entry:
        return entry
    address, place, *source = entry.split(",")
    protocol, _colon, port = place.partition(":")
    return {"concat": [address, protocol, int(port), *map(_source_part, source)]}


def _source_part(text: str) -> Union[str, Dict[str, Any]]:
    if "-" in text:
        return {"range": text.split("-")}
    network = ipaddress.ip_network(text)
    return str(network[0]) if network.num_addresses == 1 else _prefix(str(network))


def _changes(version: IpVersion, have: State, want: State, kept: set[str]) -> Iterator[Dict[str, Any]]:
    """Commands on elements: of sets that stay, what they gain and lose; of the others all that is wanted."""
    place = f"{nft_name(version)} {TABLE}"
    old, new = _by_set(place, have), _by_set(place, want)
    for name in SETS:
        before, after = (old.get(name, {}) if name in kept else {}), new.get(name, {})
        for word, entries in (("delete", before.keys() - after.keys()), ("add", after.keys() - before.keys())):
            if entries:
                elements = [_element(entry) for entry in sorted(entries)]
                content = {"family": nft_name(version), "table": TABLE, "name": name, "elem": elements}
                yield {word: {"element": content}}


def _by_set(place: str, state: State) -> Dict[str, Dict[str, Tuple[()]]]:
    sets: Dict[str, Dict[str, Tuple[()]]] = {}
    for item in state.values():
        if isinstance(item, FilterEntry) and item.table == place:
            sets.setdefault(item.set, {})[item.entry] = ()
    return sets
