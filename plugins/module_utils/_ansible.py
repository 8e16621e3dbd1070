# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Between the engine and AnsibleModule: running a module body, the shape of results and diffs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List

from ._engine import Outcome
from ._model.errors import FairleadError
from ._model.item import State

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


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
            "before": _lines(outcome.before),
            "after": _lines(outcome.after),
        }
    return result


def items_of(state: State) -> List[Dict[str, Any]]:
    """A state as plain data in a stable order."""
    return [state[key].to_dict() for key in sorted(state, key=str)]


def _lines(state: State) -> str:
    return "".join(f"{line}\n" for line in sorted(str(item) for item in state.values()))
