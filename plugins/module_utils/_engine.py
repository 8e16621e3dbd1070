# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The one path of every change: read, plan, apply, read again to verify, undo on failure."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Callable, Iterator, List, Mapping, Protocol, Sequence

from ._model.errors import UndoError, VerifyError
from ._model.item import State
from ._plan.operation import Operation, outcome_of

Plan = Callable[[State], List[Operation]]
_SHOWN_LEFTOVERS = 5


class Adapter(Protocol):
    """The side that touches the node. One adapter speaks for one kind of state (datapath, files, rules, leases)."""

    def read(self) -> State:
        """The present state, canonical, limited to what the plan is about."""

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        """Carry out operations in order, yielding each one when it is known to have happened.

        Raises ApplyError naming the object at the first refusal.
        """


class Combined:
    """Several adapters as one, so that changes of different kinds stand or fall together.

    ``adapters`` maps the kind of an item to the adapter that speaks for it. Operations keep their order; those in a row
    for one adapter reach it in one call.
    """

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = adapters

    def read(self) -> State:
        state: State = {}
        for adapter in {id(adapter): adapter for adapter in self.adapters.values()}.values():
            state.update(adapter.read())
        return state

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for _adapter, run in itertools.groupby(operations, lambda operation: id(self.adapters[operation.item.kind])):
            chunk = list(run)
            yield from self.adapters[chunk[0].item.kind].apply(chunk)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run found, what it did (check mode: would do), and what was there afterwards."""

    before: State
    after: State
    operations: List[Operation]

    @property
    def changed(self) -> bool:
        return bool(self.operations)


def together(*outcomes: Outcome) -> Outcome:
    """Several outcomes as one, in order. Their states are about different objects."""
    before: State = {}
    after: State = {}
    operations: List[Operation] = []
    for outcome in outcomes:
        before.update(outcome.before)
        after.update(outcome.after)
        operations.extend(outcome.operations)
    return Outcome(before, after, operations)


def converge(adapter: Adapter, plan: Plan, check: bool = False) -> Outcome:
    """Bring the node to the state that ``plan`` asks for; with ``check`` only say what that would take.

    ``plan`` maps a state to operations and is empty for the wanted state; it is asked again after applying.
    Raises FairleadError after undoing what was done; UndoError, naming what is left, when that failed too.
    """
    before = adapter.read()
    operations = plan(before)
    if check or not operations:
        return Outcome(before, outcome_of(before, operations), operations)
    done: List[Operation] = []
    try:
        for operation in adapter.apply(operations):
            done.append(operation)
        after = adapter.read()
        _verify(plan(after))
    except BaseException as error:
        _undo(adapter, done, error)
        raise
    return Outcome(before, after, operations)


def _verify(left: List[Operation]) -> None:
    if left:
        shown = "; ".join(str(operation) for operation in left[:_SHOWN_LEFTOVERS])
        more = f" and {len(left) - _SHOWN_LEFTOVERS} more" if len(left) > _SHOWN_LEFTOVERS else ""
        raise VerifyError(f"applied without an error, but reading again still wants: {shown}{more}")


def _undo(adapter: Adapter, done: List[Operation], cause: BaseException) -> None:
    left = [operation.inverse() for operation in reversed(done)]
    failures: List[str] = []
    while left:
        taken_back = 0
        try:
            for _operation in adapter.apply(left):
                taken_back += 1
            break
        except Exception as error:
            # Whatever it was, the operations before this one can still be taken back.
            failures.append(f"{left[taken_back]}: {error}")
            left = left[taken_back + 1 :]
    if failures:
        raise UndoError(
            f"{cause or type(cause).__name__}; and {len(failures)} of the {len(done)} operations before it could not "
            f"be taken back: {'; '.join(failures)}"
        ) from cause
