# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of ipset(8) that rules for services look into. Both kinds of iptables look into the same ones."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Optional

from .._model.errors import PrerequisiteError
from .._model.filter_items import FilterEntry, FilterObject
from .._model.ip_version import VERSIONS, IpVersion
from .._model.item import Item, State, state_of
from .._model.service_nat import SETS, ServiceNat
from .packet_filter import MissingError, refused
from .runner import Runner

BACKEND = "ipset"
# ipset(8) keeps at most so many entries in a set; the default of 65536 is too few for 10,000 services.
_MOST_ENTRIES = 1 << 20
_TABLE = "sets"


class ServiceSets:
    """Those of both IP versions."""

    backend = BACKEND
    at_once = True

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def read(self, version: IpVersion) -> State:
        """With the first IP version those of both. Raises MissingError, UnsupportedError."""
        return state_of(_items(self._run(["save"]))) if version is VERSIONS[0] else {}

    def probe(self, version: IpVersion, check: bool) -> None:
        self._run(["list", "-name"])

    def wanted(self, nat: ServiceNat) -> State:
        items: List[Item] = []
        for field, kind in SETS.items():
            name = set_name(field, nat.version)
            definition = f"{kind.type} family inet{nat.version.suffix} maxelem {_MOST_ENTRIES}"
            items.append(FilterObject(BACKEND, _TABLE, f"set {name}", definition))
            items += [FilterEntry(BACKEND, _TABLE, name, entry) for entry in getattr(nat, field)]
        return state_of(items)

    def write(self, table: str, have: State, want: State) -> None:
        """Raises PrerequisiteError for a set of somebody else with a name of ours: ipset(8) turns no set into one of
        another type while a rule looks into it."""
        for key, item in want.items():
            if have.get(key, item) != item:
                raise PrerequisiteError(f"{have[key]}: a set of that name is there and is none of ours; destroy it")
        gained = [item for key, item in want.items() if key not in have]
        lost = [item for key, item in have.items() if key not in want]
        lines = [*_creations(gained), *_entries("add", gained), *_entries("del", lost), *_destructions(lost)]
        if lines:
            self._run(["-exist", "restore"], "\n".join(lines) + "\n")

    def _run(self, words: List[str], data: Optional[str] = None) -> str:
        status, output, error = self.runner(["ipset", *words], data)
        if status == 127:
            raise MissingError("command ipset is missing (package ipset)")
        if status != 0:
            raise refused(f"ipset {words[0]}", error or output)
        return output


def set_name(field: str, version: IpVersion) -> str:
    return f"FAIRLEAD{version.suffix}-{field.upper()}"


def _items(saved: str) -> Iterator[Item]:
    """Our sets and their entries, of what ipset save prints."""
    names = {set_name(field, version): (field, version) for field in SETS for version in VERSIONS}
    for line in saved.splitlines():
        word, name, rest = line.split(" ", 2)
        if name not in names:
            continue
        if word == "add":
            yield FilterEntry(BACKEND, _TABLE, name, rest)
        else:
            options = dict(zip(*[iter(rest.split()[1:])] * 2))
            definition = f"{rest.split()[0]} family {options.get('family')} maxelem {options.get('maxelem')}"
            yield FilterObject(BACKEND, _TABLE, f"set {name}", definition)


def _creations(items: Iterable[Item]) -> List[str]:
    objects = [item for item in items if isinstance(item, FilterObject) and item.name.startswith("set ")]
    return [f"create {item.name[4:]} {item.definition}" for item in objects]


def _destructions(items: Iterable[Item]) -> List[str]:
    objects = [item for item in items if isinstance(item, FilterObject) and item.name.startswith("set ")]
    return [f"destroy {item.name[4:]}" for item in objects]


def _entries(word: str, items: Iterable[Item]) -> List[str]:
    return [f"{word} {item.set} {item.entry}" for item in items if isinstance(item, FilterEntry)]
