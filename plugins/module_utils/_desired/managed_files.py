# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Small text files, many at once: there with exactly this content and these rights, or not there."""

from __future__ import annotations

import itertools
from typing import Any, List, Mapping

from .._engine import Combined, Outcome
from .._engine import converge as engine_converge
from .._model.errors import SpecError
from .._model.files import File, parse_files
from .._model.item import State, state_of
from .._model.reload import SERVICES, DueReload
from .._plan.operation import Operation, difference
from .._plan.reload import with_reloads
from .._system.files import FileAdapter
from .._system.reload import ReloadAdapter
from .._system.runner import Runner

PRESENT, ABSENT = "present", "absent"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: ``{files: [{path, state?, content?, mode?, owner?, group?, reload?: [SERVICE]}]}``, state "present" or
    "absent". Services that read a file which changes, or changed in a run that was cut off, are reloaded."""
    entries = document.get("files") or []
    files = parse_files([{key: entry[key] for key in entry if key not in ("state", "reload")} for entry in entries])
    present = [_is_present(entry, f"files[{index}].state") for index, entry in enumerate(entries)]
    readers = {file.key: _services(entry, f"files[{index}]") for index, (file, entry) in enumerate(zip(files, entries))}
    want = state_of(file for file, wanted in zip(files, present) if wanted)
    reloads = ReloadAdapter(itertools.chain(*readers.values()), runner)
    adapter = Combined({File.kind: FileAdapter(file.path for file in files), DueReload.kind: reloads})

    def plan(have: State) -> List[Operation]:
        found: State = {key: item for key, item in have.items() if isinstance(item, File)}
        return with_reloads(have, difference(found, want), lambda item: readers[item.key])

    return engine_converge(adapter, plan, check)


def _is_present(entry: Mapping[str, Any], path: str) -> bool:
    state = entry.get("state", PRESENT)
    if state not in (PRESENT, ABSENT):
        raise SpecError(path, f"must be {PRESENT} or {ABSENT}, not {state!r}")
    return bool(state == PRESENT)


def _services(entry: Mapping[str, Any], path: str) -> List[str]:
    services = list(entry.get("reload") or [])
    for index, service in enumerate(services):
        if service not in SERVICES:
            raise SpecError(f"{path}.reload[{index}]", f"must be one of {', '.join(SERVICES)}, not {service!r}")
    return services


def changed_paths(outcome: Outcome) -> List[str]:
    """Paths of the files that were written or removed, sorted."""
    return sorted({operation.item.path for operation in outcome.operations if isinstance(operation.item, File)})
