# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Operations, their inverses, and the general difference between two states."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional

from .._model.item import Item, Key, State, same

ADD, REPLACE, DELETE = "add", "replace", "delete"
_SIGNS = {ADD: "+", REPLACE: "~", DELETE: "-"}


class Operation(NamedTuple):
    """One change. ``item`` is the object added, deleted, or as it shall be; ``previous`` what a replace replaces."""

    action: str
    item: Item
    previous: Optional[Item] = None

    def inverse(self) -> Operation:
        """The operation that takes this one back."""
        if self.action == ADD:
            return Operation(DELETE, self.item)
        if self.action == DELETE:
            return Operation(ADD, self.item)
        assert self.previous is not None, "a replace knows what it replaces"
        return Operation(REPLACE, self.previous, self.item)

    def __str__(self) -> str:
        was = f" (was {self.previous})" if self.previous is not None else ""
        return f"{_SIGNS[self.action]} {self.item}{was}"


def difference(have: State, want: State, ranks: Optional[Mapping[str, int]] = None) -> List[Operation]:
    """Operations that turn have into want: additions and replacements by rising rank, then deletions by falling rank.

    ``ranks`` orders kinds that depend on each other (a link before its routes). Additions come first so that nothing
    wanted is missing for longer than it has to be.
    """
    rank = ranks or {}

    def order(item: Item) -> tuple[int, str, str]:
        return (rank.get(item.kind, 0), item.kind, str(item.key))

    changed = [item for key, item in want.items() if not same(have.get(key), item)]
    gone = [item for key, item in have.items() if key not in want]
    operations = [_put(item, have.get(item.key)) for item in sorted(changed, key=order)]
    return operations + [Operation(DELETE, item) for item in sorted(gone, key=order, reverse=True)]


def _put(item: Item, previous: Optional[Item]) -> Operation:
    return Operation(ADD, item) if previous is None else Operation(REPLACE, item, previous)


def outcome_of(have: State, operations: Iterable[Operation]) -> State:
    """The state that the operations lead to. Check mode shows this instead of applying them."""
    state: Dict[Key, Item] = dict(have)
    for operation in operations:
        if operation.action == DELETE:
            state.pop(operation.item.key, None)
        else:
            state[operation.item.key] = operation.item
    return state
