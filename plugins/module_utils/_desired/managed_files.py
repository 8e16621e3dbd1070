# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Small text files, many at once: there with exactly this content and these rights, or not there."""

from __future__ import annotations

from typing import Any, List, Mapping

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import SpecError
from .._model.files import File, parse_files
from .._model.item import state_of
from .._plan.operation import difference
from .._system.files import FileAdapter
from .._system.runner import Runner

PRESENT, ABSENT = "present", "absent"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: ``{files: [{path, state?, content?, mode?, owner?, group?}]}``, state "present" or "absent"."""
    entries = document.get("files") or []
    files = parse_files([{key: value for key, value in entry.items() if key != "state"} for entry in entries])
    present = [_is_present(entry, f"files[{index}].state") for index, entry in enumerate(entries)]
    want = state_of(file for file, wanted in zip(files, present) if wanted)
    adapter = FileAdapter(file.path for file in files)
    return engine_converge(adapter, lambda have: difference(have, want), check)


def _is_present(entry: Mapping[str, Any], path: str) -> bool:
    state = entry.get("state", PRESENT)
    if state not in (PRESENT, ABSENT):
        raise SpecError(path, f"must be {PRESENT} or {ABSENT}, not {state!r}")
    return bool(state == PRESENT)


def changed_paths(outcome: Outcome) -> List[str]:
    """Paths of the files that were written or removed, sorted."""
    return sorted({operation.item.path for operation in outcome.operations if isinstance(operation.item, File)})
