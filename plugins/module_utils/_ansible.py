# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Between the engine and AnsibleModule: running a module body, the shape of results and diffs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List

from ._engine import Outcome
from ._model.errors import FairleadError
from ._model.item import State
from ._plan.operation import ADD, DELETE, REPLACE

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Of each kind on each side of a diff: what a person still reads.
DIFF_LINES = 50


def run(module: AnsibleModule, body: Callable[[AnsibleModule], Dict[str, Any]]) -> None:
    """Run ``body`` and exit with its result; our own errors become the module's failure message."""
    try:
        result = body(module)
    except FairleadError as error:
        module.fail_json(msg=str(error), error_type=type(error).__name__)
    module.exit_json(**result)


def result_of(module: AnsibleModule, outcome: Outcome, header: str) -> Dict[str, Any]:
    """The keys every module returns: changed, before, after, operations, and with ``--diff`` a diff."""
    result: Dict[str, Any] = {
        "changed": outcome.changed,
        "before": items_of(outcome.before),
        "after": items_of(outcome.after),
        "operations": [str(operation) for operation in outcome.operations],
    }
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
