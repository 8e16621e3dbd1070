# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The one path of every change: read, plan, apply, read again to verify, undo on failure."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
from typing import Callable, ContextManager, Dict, Iterator, List, Mapping, Optional, Protocol, Sequence, Set, Tuple

from ._model.errors import UndoError, VerifyError
from ._model.item import Item, Key, State, same
from ._plan.operation import Operation, outcome_of

Plan = Callable[[State], List[Operation]]
# Objects by key, None for those that are not there.
Patch = Dict[Key, Optional[Item]]
_SHOWN_LEFTOVERS = 5
# Up to so many objects are asked for one by one to verify them. More are read with all others: a question costs what
# dumping ten objects does.
_FEW = 64


class Adapter(Protocol):
    """The side that touches the node. One adapter speaks for one kind of state (datapath, files, rules, leases)."""

    def read(self) -> State:
        """The present state, canonical, limited to what the plan is about."""

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        """Carry out operations in order, yielding each one when it is known to have happened.

        Raises ApplyError naming the object at the first refusal, after yielding what was sent along with it and
        happened all the same.
        """


class Rereading(Adapter, Protocol):
    """An adapter that can tell what became of a few objects without reading everything again."""

    def read_again(self, operations: Sequence[Operation]) -> Optional[Patch]:
        """The present versions of the objects that the operations are about; None where reading all is as good."""


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

    def read_again(self, operations: Sequence[Operation]) -> Optional[Patch]:
        found: Patch = {}
        for adapter, mine in self._by_adapter(operations):
            patch = _read_again(adapter, mine)
            if patch is None:
                return None
            found.update(patch)
        return found

    def _by_adapter(self, operations: Sequence[Operation]) -> List[Tuple[Adapter, List[Operation]]]:
        parts: Dict[int, Tuple[Adapter, List[Operation]]] = {}
        for operation in operations:
            adapter = self.adapters[operation.item.kind]
            parts.setdefault(id(adapter), (adapter, []))[1].append(operation)
        return list(parts.values())

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


def converge(
    adapter: Adapter,
    plan: Plan,
    check: bool = False,
    around: Callable[[], ContextManager[None]] = contextlib.nullcontext,
) -> Outcome:
    """Bring the node to the state that ``plan`` asks for; with ``check`` only say what that would take.

    ``plan`` maps a state to operations and is empty for the wanted state; it is asked again after applying. A context
    of ``around`` holds while there are changes: it sees them fail after they were taken back.
    Raises FairleadError after undoing what was done; UndoError, naming what is left, when that failed too.
    """
    with collector_paused():
        before = adapter.read()
        operations = plan(before)
        if check or not operations:
            return Outcome(before, outcome_of(before, operations), operations)
        with around():
            return Outcome(before, _carried_out(adapter, plan, before, operations), operations)


def _carried_out(adapter: Adapter, plan: Plan, before: State, operations: List[Operation]) -> State:
    """The verified state after operations, all of which are taken back when one fails."""
    done: List[Operation] = []
    try:
        for operation in adapter.apply(operations):
            done.append(operation)
        return _verified(adapter, plan, before, operations)
    except BaseException as error:
        _undo(adapter, done, error)
        raise


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Plans of large clusters make a hundred thousand objects, none of them in a cycle: looking for cycles among them
    again and again costs a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            # Nor has whoever comes next to look through what is left of them.
            gc.freeze()
            gc.enable()


def _verified(adapter: Adapter, plan: Plan, before: State, operations: List[Operation]) -> State:
    """The state read again. Raises VerifyError when it is not what was planned."""
    if len(operations) <= _FEW:
        expected = outcome_of(before, operations)
        if _happened(adapter, operations, expected):
            return expected
    after = adapter.read()
    left = plan(after)
    if left:
        shown = "; ".join(str(operation) for operation in left[:_SHOWN_LEFTOVERS])
        more = f" and {len(left) - _SHOWN_LEFTOVERS} more" if len(left) > _SHOWN_LEFTOVERS else ""
        raise VerifyError(f"applied without an error, but reading again still wants: {shown}{more}")
    return after


def _happened(adapter: Adapter, operations: List[Operation], expected: State) -> bool:
    """Whether asking for the objects of the operations alone tells that all is as expected."""
    patch = _read_again(adapter, operations)
    if patch is None:
        return False
    return all(_as_expected(patch.get(key), expected.get(key)) for key in {each.item.key for each in operations})


def _as_expected(found: Optional[Item], wanted: Optional[Item]) -> bool:
    return found is None if wanted is None else same(found, wanted)


def _read_again(adapter: Adapter, operations: Sequence[Operation]) -> Optional[Patch]:
    read_again = getattr(adapter, "read_again", None)
    return read_again(operations) if read_again is not None else None


def take_back(adapter: Adapter, outcome: Outcome, cause: BaseException) -> None:
    """Undo a run that had come to its end, because of what failed after it. Raises UndoError, naming what is left."""
    _undo(adapter, outcome.operations, cause)


def _undo(adapter: Adapter, done: List[Operation], cause: BaseException) -> None:
    left = [operation.inverse() for operation in reversed(done)]
    failures: List[str] = []
    while left:
        taken_back: Set[int] = set()
        try:
            for operation in adapter.apply(left):
                taken_back.add(id(operation))
            break
        except Exception as error:
            # Whatever it was, the operations before this one can still be taken back.
            still = [operation for operation in left if id(operation) not in taken_back]
            failures.append(f"{still[0]}: {error}" if still else str(error))
            left = still[1:]
    if failures:
        raise UndoError(
            f"{cause or type(cause).__name__}; and {len(failures)} of the {len(done)} operations before it could not "
            f"be taken back: {'; '.join(failures)}"
        ) from cause
