# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the ways to a packet filter have in common, and the adapter that speaks for all of them at once."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, Protocol, Sequence, Tuple

from .._model.errors import ApplyError, FairleadError, PrerequisiteError, ReadError
from .._model.item import Item, State
from .._model.masquerade import FilterObject, FilterRule, MasqueradeSpec
from .._plan.operation import Operation, outcome_of

MASQUERADE_COMMENT, FORWARD_COMMENT = "fairlead masquerade", "fairlead forward"
# Words of nft, iptables and the C library for: this kernel (or this build of the command) cannot do that.
_UNSUPPORTED = re.compile(
    r"not supported|does not exist|do you need to insmod|incompatible|Could not process rule: No such file"
    r"|not compiled"
)


class MissingError(PrerequisiteError):
    """The command is not installed."""


class UnsupportedError(PrerequisiteError):
    """The command is there, but the kernel lacks what it needs."""


class Backend(Protocol):
    """One way to the packet filter. ``write`` replaces all of ours in one table at once, or raises and leaves it."""

    backend: str

    def read(self) -> State: ...

    def probe(self, check: bool) -> None: ...

    def wanted(self, spec: MasqueradeSpec) -> State: ...

    def write(self, table: str, have: State, want: State) -> None: ...


def refused(command: str, error: str) -> FairleadError:
    """The error for what a command said before it failed."""
    said = " ".join(error.split()) or "failed without a word"
    if _UNSUPPORTED.search(said):
        return UnsupportedError(f"the kernel does not do what {command} needs: {said}")
    return ReadError(f"{command}: {said}")


class FilterAdapter:
    """Our rules of every backend that works here. Others hold none of ours."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends: Dict[str, Backend] = {backend.backend: backend for backend in backends}

    def read(self) -> State:
        state: State = {}
        for backend in self.backends.values():
            state.update(read_or_nothing(backend))
        return state

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        """One transaction for all operations of a table, the table of the first operation first."""
        for (name, table), group in _by_table(operations).items():
            backend = self.backends[name]
            try:
                have = of_table(backend.read(), table)
                backend.write(table, have, outcome_of(have, group))
            except FairleadError as error:
                raise ApplyError(group[0].item, str(error)) from error
            yield from group


def read_or_nothing(backend: Backend) -> State:
    try:
        return backend.read()
    except PrerequisiteError:
        return {}


def of_table(state: State, table: str) -> State:
    return {key: item for key, item in state.items() if _place(item)[1] == table}


def _by_table(operations: Sequence[Operation]) -> Dict[Tuple[str, str], List[Operation]]:
    groups: Dict[Tuple[str, str], List[Operation]] = {}
    for operation in operations:
        groups.setdefault(_place(operation.item), []).append(operation)
    return groups


def _place(item: Item) -> Tuple[str, str]:
    assert isinstance(item, (FilterObject, FilterRule))
    return item.backend, item.table
