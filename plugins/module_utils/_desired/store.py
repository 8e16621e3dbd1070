# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node's memory of what was applied: one JSON document a kind under /var/lib/fairlead/desired."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Mapping, Optional

from .._engine import Outcome, converge
from .._model.errors import ReadError
from .._model.files import File
from .._model.item import state_of
from .._plan.operation import difference
from .._system.files import FileAdapter, read_file

# Tests, and nodes with a state directory elsewhere, say so in the environment.
DIRECTORY = os.environ.get("FAIRLEAD_STATE_DIR") or "/var/lib/fairlead/desired"


def path_of(kind: str, directory: str = DIRECTORY) -> str:
    return os.path.join(directory, f"{kind}.json")


def save(kind: str, document: Mapping[str, Any], check: bool, directory: str = DIRECTORY) -> Outcome:
    """Remember a document; nothing to do when the same one is there."""
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    path = path_of(kind, directory)
    want = state_of([File(path, text, "0600")])
    return converge(FileAdapter([path]), lambda have: difference(have, want), check)


def forget(kind: str, check: bool, directory: str = DIRECTORY) -> Outcome:
    """Remove a document; nothing to do when there is none."""
    return converge(FileAdapter([path_of(kind, directory)]), lambda have: difference(have, {}), check)


def load(kind: str, directory: str = DIRECTORY) -> Optional[Dict[str, Any]]:
    """The saved document, None when there is none. Raises ReadError naming the file when it is not JSON."""
    file = read_file(path_of(kind, directory))
    if file is None:
        return None
    try:
        document = json.loads(file.content)
    except ValueError as error:
        problem = f"not readable as JSON ({error})"
        raise ReadError(f"{file.path}: {problem}; run the playbook again to write it anew") from None
    if not isinstance(document, dict):
        raise ReadError(f"{file.path}: holds no mapping; run the playbook again to write it anew")
    return document
