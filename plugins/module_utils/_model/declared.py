# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Variables as a user declared them for many hosts: who declared what where, and whether a role knows it.

A problem found here is collected, not raised: a user shall see all of them at once.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .backend import VNI_LIMIT
from .errors import SpecError
from .ipvs_service import LONGEST_DRAIN
from .lease import SHORTEST_TTL
from .parse import Section

# How much of a name must agree to call it misspelt, from 0 to 1.
_ALIKE = 0.7
_SHOWN_HOSTS = 4
_BOOLEANS = ("yes", "no", "true", "false", "on", "off", "y", "n", "t", "f", "1", "0", "1.0", "0.0")
# What the end of a name says about its value: lowest, highest, and a value beside the range with a meaning of its own.
RANGES: Mapping[str, Tuple[int, int, Optional[int]]] = {
    "_vni": (1, VNI_LIMIT, None),  # 0 is not given out
    "_port": (1, 65535, None),
    "_port6": (1, 65535, None),
    "_keepalive": (0, 65535, None),
    "_lease_ttl": (SHORTEST_TTL, 2**31, 0),  # 0: no end
    "_drain_seconds": (0, LONGEST_DRAIN, None),
    "_mtu": (576, 65535, 0),  # RFC 791: what every IPv4 host must accept; 0 stands for "take the interface's"
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong. ``path`` names the item, ``where`` the file and line it was declared in, when known."""

    path: str
    text: str
    where: str = ""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.path}{where}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One declaration: ``value`` of variable ``name`` for ``hosts``. ``unresolved`` says why there is no value yet."""

    name: str
    value: Any
    hosts: Tuple[str, ...]
    everywhere: bool
    where: str = ""
    unresolved: str = ""

    @property
    def path(self) -> str:
        if self.everywhere:
            return self.name
        if len(self.hosts) == 1:
            return f"hosts.{self.hosts[0]}.{self.name}"
        return f"{self.name} of {listed(self.hosts)}"

    def problem(self, text: str) -> Problem:
        return Problem(self.path, text, self.where)


@dataclasses.dataclass(frozen=True)
class Option:
    """A variable that a role takes, as in its argument_specs.yml."""

    name: str
    type: str = "str"
    choices: Tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """All declarations, and what the roles know."""

    entries: Tuple[Setting, ...]
    options: Mapping[str, Option]

    def of(self, name: str) -> List[Setting]:
        return [entry for entry in self.entries if entry.name == name]

    def on(self, host: str, name: str) -> Optional[Setting]:
        return next((entry for entry in self.of(name) if host in entry.hosts), None)


def parse_settings(section: Section, hosts: Sequence[str]) -> Settings:
    """Shape: ``settings: [{name, value?, hosts?, where?, unresolved?}]``, ``options: {name: {type?, choices?}}``.

    A setting without ``hosts`` holds for all of them.
    """
    entries = tuple(_parse_setting(entry, hosts) for entry in section.sections("settings"))
    options = section.section("options")
    return Settings(entries, {name: _parse_option(options.section(name), name) for name in options.data})


def _parse_setting(section: Section, all_hosts: Sequence[str]) -> Setting:
    hosts = section.list("hosts", [])
    return Setting(
        name=section.text("name"),
        value=section.get("value", None),
        hosts=tuple(map(str, hosts or all_hosts)),
        everywhere=not hosts,
        where=section.text("where", ""),
        unresolved=section.text("unresolved", ""),
    )


def _parse_option(section: Section, name: str) -> Option:
    choices = tuple(str(choice) for choice in section.list("choices", []))
    return Option(name, section.text("type", "str"), choices)


def listed(names: Sequence[str]) -> str:
    """Names for a message, cut short when there are many."""
    more = f" and {len(names) - _SHOWN_HOSTS} more" if len(names) > _SHOWN_HOSTS else ""
    return ", ".join(names[:_SHOWN_HOSTS]) + more


def unknown_variables(settings: Settings, prefixes: Sequence[str]) -> Iterator[Tuple[bool, Problem]]:
    """Variables that look like a role's and belong to none. True with those that are a known name misspelt."""
    for entry in settings.entries:
        if entry.name in settings.options or not entry.name.startswith(tuple(prefixes)):
            continue
        alike = difflib.get_close_matches(entry.name, settings.options, 1, _ALIKE)
        if alike:
            yield True, entry.problem(f"is not a variable of any role; did you mean {alike[0]}?")
        else:
            yield False, entry.problem("is not a variable of any role, so nothing will read it; remove it")


def wrong_values(settings: Settings) -> Iterator[Problem]:
    """Declared values that are not of the type, among the choices or in the range that their name asks for."""
    for entry in settings.entries:
        option = settings.options.get(entry.name)
        if option is None or entry.value is None or entry.unresolved:
            continue
        text = _type_problem(entry.value, option) or _choice_problem(entry.value, option) or _range_problem(entry)
        if text:
            yield entry.problem(text)


def _type_problem(value: Any, option: Option) -> str:
    """Judges as Ansible does: "1" will do for a number, "a,b" for a list."""
    scalar = isinstance(value, (str, int, float))
    accepted = {
        "str": scalar,
        "path": scalar,
        "bool": isinstance(value, bool) or str(value).lower() in _BOOLEANS,
        "int": whole_number(value) is not None,
        "list": isinstance(value, (list, str)),
        "dict": isinstance(value, Mapping) or (isinstance(value, str) and ("=" in value or value.startswith("{"))),
    }
    names = {"str": "a string", "path": "a path", "bool": "true or false", "int": "a whole number", "list": "a list"}
    if accepted.get(option.type, True):
        return ""
    return f"must be {names.get(option.type, 'a mapping')}, not {value!r} ({type(value).__name__})"


def whole_number(value: Any) -> Optional[int]:
    """The value as an integer when it is one, also as a string; None otherwise."""
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None


def _choice_problem(value: Any, option: Option) -> str:
    chosen = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if not option.choices or all(item in option.choices for item in chosen):
        return ""
    return f"must be one of {', '.join(option.choices)}, not {value!r}"


def _range_problem(entry: Setting) -> str:
    number = whole_number(entry.value)
    for ending, (low, high, special) in RANGES.items():
        if entry.name.endswith(ending) and number is not None and number != special and not low <= number <= high:
            beside = "" if special is None else f"{special} or "
            return f"must be {beside}{low} to {high}, not {number}"
    return ""


def differing(settings: Settings, name: str, hosts: Sequence[str]) -> Iterator[Problem]:
    """One problem when hosts that must agree on a variable do not."""
    found: Dict[str, Setting] = {}
    without = []
    for host in hosts:
        entry = settings.on(host, name)
        if entry is None:
            without.append(host)
        else:
            found.setdefault(str(entry.value), entry)
    values = [f"{entry.value!r} on {listed(entry.hosts)}" for entry in found.values()]
    if values and without:
        values.append(f"not set on {listed(without)}")
    if len(values) > 1:
        entry = next(iter(found.values()))
        text = f"must be the same on all nodes, and is {'; '.join(values)}. Set it once, in group_vars/all"
        yield Problem(name, text, entry.where)


def as_problem(error: SpecError, path: str, where: str = "") -> Problem:
    """A refusal by a parser, as a problem of the variable that the parser's input came from."""
    return Problem(path, error.problem, where)
