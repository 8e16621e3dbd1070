# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the ways to the packet filter have in common, and the adapter that speaks for all of them at once."""

from __future__ import annotations

import re
import socket
from typing import Dict, Iterator, List, Protocol, Sequence, Tuple

from .._model.errors import ApplyError, FairleadError, PrerequisiteError, ReadError
from .._model.filter_items import FilterEntry, FilterObject, FilterRule
from .._model.ip_version import VERSIONS, IpVersion
from .._model.item import Item, State
from .._model.masquerade import MasqueradeSpec, Rules
from .._model.parse import Network
from .._plan.operation import Operation, outcome_of
from .runner import Runner

MASQUERADE_COMMENT, FORWARD_COMMENT = "fairlead masquerade", "fairlead forward"
# Words of nft, iptables, ipset and the C library for: this kernel (or this build of the command) cannot do that.
_UNSUPPORTED = re.compile(
    r"not supported|does not exist|do you need to insmod|incompatible|Could not process rule: No such file"
    r"|not compiled"
    # Netlink is there for sets, and nf_tables is not.
    r"|(generation id|cache initialization failed): Invalid argument"
    r"|Cannot open session to kernel|Kernel error"
)


class MissingError(PrerequisiteError):
    """The command is not installed."""


class UnsupportedError(PrerequisiteError):
    """The command is there, but the kernel lacks what it needs."""


class Holder(Protocol):
    """What holds rules of ours, or sets that they look into, for both IP versions.

    ``write`` replaces all of ours in one table at once, or raises and leaves it. Where ``at_once`` holds, it does so
    with all tables, and gets the items of all of them.
    """

    backend: str
    at_once: bool

    def read(self, version: IpVersion) -> State: ...

    def write(self, table: str, have: State, want: State) -> None: ...


class Backend(Holder, Protocol):
    """One way to the packet filter for pod traffic."""

    def probe(self, version: IpVersion, check: bool) -> None: ...

    def wanted(self, rules: Rules) -> State: ...


def refused(command: str, error: str) -> FairleadError:
    """The error for what a command said before it failed."""
    said = " ".join(error.split()) or "failed without a word"
    if _UNSUPPORTED.search(said):
        return UnsupportedError(f"the kernel does not do what {command} needs: {said}")
    return ReadError(f"{command}: {said}")


def dumped(runner: Runner, words: Sequence[str]) -> str:
    """What a command prints of all that the kernel holds: nothing where it is missing, or the kernel lacks what it
    needs. Raises ReadError when it fails otherwise."""
    status, output, error = runner(words)
    if status in (0, 127):
        return output if status == 0 else ""
    problem = refused(" ".join(words), error or output)
    if isinstance(problem, UnsupportedError):
        return ""
    raise problem


def base_of(network: Network) -> str:
    """The address as the C library prints it, and so every command. Python prints ``::ffff:1.2.3.4`` otherwise."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return socket.inet_ntop(family, network.network_address.packed)


def wanted(backend: Backend, spec: MasqueradeSpec) -> State:
    state: State = {}
    for rules in spec.rules:
        state.update(backend.wanted(rules))
    return state


class FilterAdapter:
    """Our rules of every backend that works here. Others hold none of ours."""

    def __init__(self, backends: Sequence[Holder]) -> None:
        self.backends: Dict[str, Holder] = {backend.backend: backend for backend in backends}

    def read(self) -> State:
        state: State = {}
        for backend in self.backends.values():
            state.update(_read(backend))
        return state

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        """One transaction for all operations of a table, the table of the first operation first."""
        for (name, table), group in self._transactions(operations).items():
            backend = self.backends[name]
            try:
                have = {key: item for key, item in _read(backend).items() if self._transaction(item) == (name, table)}
                backend.write(table, have, outcome_of(have, group))
            except FairleadError as error:
                raise ApplyError(group[0].item, str(error)) from error
            yield from group

    def _transactions(self, operations: Sequence[Operation]) -> Dict[Tuple[str, str], List[Operation]]:
        groups: Dict[Tuple[str, str], List[Operation]] = {}
        for operation in operations:
            groups.setdefault(self._transaction(operation.item), []).append(operation)
        return groups

    def _transaction(self, item: Item) -> Tuple[str, str]:
        """Backend and table, no table where all are replaced at once."""
        assert isinstance(item, (FilterObject, FilterRule, FilterEntry))
        return item.backend, "" if self.backends[item.backend].at_once else item.table


def _read(backend: Holder) -> State:
    """Of both IP versions: one that does not work here holds nothing."""
    state: State = {}
    for version in VERSIONS:
        try:
            state.update(backend.read(version))
        except PrerequisiteError:
            continue
    return state
