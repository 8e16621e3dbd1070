# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Between the engine and AnsibleModule: running a module body, the shape of results and diffs."""

from __future__ import annotations

import collections
import heapq
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

from ._engine import Outcome, collector_paused
from ._model.errors import FairleadError
from ._model.item import Key, State
from ._plan.operation import ADD, DELETE, REPLACE, Operation

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Of each kind on each side of a diff: what a person still reads.
DIFF_LINES = 50
# Of each kind in each list of a result. Ansible walks through all of a result several times: with all objects of 20,000
# peers that took the node six seconds.
RESULT_ITEMS = 100


def run(module: AnsibleModule, body: Callable[[AnsibleModule], Dict[str, Any]]) -> None:
    """Run ``body`` and exit with its result; our own errors become the module's failure message."""
    try:
        with collector_paused():
            result = body(module)
    except FairleadError as error:
        module.fail_json(msg=str(error), error_type=type(error).__name__)
    module.exit_json(**result)


def result_of(module: AnsibleModule, outcome: Outcome, header: str) -> Dict[str, Any]:
    """The keys every module returns: changed, before, after, operations, and with ``--diff`` a diff.

    Lists hold at most RESULT_ITEMS of each kind; ``left_out`` tells how many more of which kind there are in which one,
    and is missing when they are whole.
    """
    before, after = _items_shown(outcome.before), _items_shown(outcome.after)
    operations = _operations_shown(outcome.operations)
    shown = {"before": before, "after": after, "operations": operations}
    result: Dict[str, Any] = {"changed": outcome.changed, **{name: part for name, (part, _left) in shown.items()}}
    left_out = {name: left for name, (_part, left) in shown.items() if left}
    if left_out:
        result["left_out"] = left_out
    if module._diff:
        result["diff"] = {
            "before_header": header,
            "after_header": header,
            "before": _lines(outcome, added=False),
            "after": _lines(outcome, added=True),
        }
    return result


def items_of(state: State) -> List[Dict[str, Any]]:
    """A state as plain data in a stable order."""
    return [state[key].to_dict() for key in sorted(state, key=str)]


def _items_shown(state: State) -> Tuple[List[Dict[str, Any]], Dict[str, int]]:
    """The first of each kind in the order of ``items_of``, and the number of those left out."""
    kinds: Dict[str, List[Key]] = {}
    for key, item in state.items():
        kinds.setdefault(item.kind, []).append(key)
    shown = [key for kind in sorted(kinds) for key in heapq.nsmallest(RESULT_ITEMS, kinds[kind], key=str)]
    return [state[key].to_dict() for key in shown], _left_out({kind: len(keys) for kind, keys in kinds.items()})


def _operations_shown(operations: Sequence[Operation]) -> Tuple[List[str], Dict[str, int]]:
    """The same of operations, which keep their order."""
    counts: Dict[str, int] = collections.Counter()
    shown: List[str] = []
    for operation in operations:
        counts[operation.item.kind] += 1
        if counts[operation.item.kind] <= RESULT_ITEMS:
            shown.append(str(operation))
    return shown, _left_out(counts)


def _left_out(counts: Dict[str, int]) -> Dict[str, int]:
    return {kind: counts[kind] - RESULT_ITEMS for kind in sorted(counts) if counts[kind] > RESULT_ITEMS}


def _lines(outcome: Outcome, added: bool) -> str:
    """One side of the diff: a line for each object that goes or comes, grouped by kind, bounded for thousands."""
    kinds: Dict[str, List[str]] = {}
    for action, item, previous in outcome.operations:
        shown = item if action != REPLACE or added else previous
        if shown is not None and action != (DELETE if added else ADD):
            kinds.setdefault(item.kind, []).append(str(shown))
    return "".join(f"{line}\n" for kind in sorted(kinds) for line in _bounded(kind, sorted(kinds[kind])))


def _bounded(kind: str, lines: List[str]) -> List[str]:
    more = len(lines) - DIFF_LINES
    return lines if more <= 0 else [*lines[:DIFF_LINES], f"... and {more} more of kind {kind}"]
