# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node's memory of what was applied: one JSON document a kind under /var/lib/fairlead/desired. Beside it lies what
runs were about to apply that did not come to their end, so that what a killed run made is known to the next one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional

from .._engine import Outcome, converge
from .._model.errors import FairleadError, PrerequisiteError, ReadError, UndoError
from .._model.files import File
from .._model.item import state_of
from .._plan.operation import difference
from .._system.files import FileAdapter, read_file, write_file
from .._system.lock import exclusive

# Tests, and nodes with a state directory elsewhere, say so in the environment.
DIRECTORY = os.environ.get("FAIRLEAD_STATE_DIR") or "/var/lib/fairlead/desired"


def path_of(kind: str, directory: str = "") -> str:
    return os.path.join(directory or DIRECTORY, f"{kind}.json")


def save(kind: str, document: Mapping[str, Any], check: bool, directory: str = "") -> Outcome:
    """Remember a document; nothing to do when the same one is there."""
    path = path_of(kind, directory)
    want = state_of([File(path, _text(document), "0600")])
    outcome = converge(FileAdapter([path]), lambda have: difference(have, want), check)
    if not check:
        finish(kind)
    return outcome


def forget(kind: str, check: bool, directory: str = "") -> Outcome:
    """Remove a document; nothing to do when there is none."""
    outcome = converge(FileAdapter([path_of(kind, directory)]), lambda have: difference(have, {}), check)
    if not check:
        finish(kind)
    return outcome


def remember(kind: str, document: Optional[Mapping[str, Any]], check: bool) -> Outcome:
    """Save a document, or forget the one there is for None."""
    return forget(kind, check) if document is None else save(kind, document, check)


def load(kind: str, directory: str = "") -> Optional[Dict[str, Any]]:
    """The saved document, which nobody may change, None when there is none. Raises ReadError naming the file when it is
    not JSON."""
    path = path_of(kind, directory)
    document = _read(path)
    if document is not None and not isinstance(document, dict):
        raise ReadError(f"{path}: holds no mapping; run the playbook again to write it anew")
    return document


def recall(kind: str) -> Optional[Dict[str, Any]]:
    """The saved document; None also for one that cannot be read, which the run that asks writes anew."""
    with contextlib.suppress(FairleadError):
        return load(kind)
    return None


def earlier(kind: str) -> List[Dict[str, Any]]:
    """What this node was last brought to, and after it what killed runs were about to bring it to."""
    saved = recall(kind)
    return [*([saved] if saved is not None else []), *unfinished(kind)]


def alone(kind: str, wanted: bool, check: bool) -> contextlib.AbstractContextManager[None]:
    """Be the only run that changes a kind. Where nothing is wanted nor remembered, without the trace that a lock
    leaves: a second reset changes nothing."""
    return exclusive(kind, check or not (wanted or os.path.exists(path_of(kind))))


@contextlib.contextmanager
def noted(kind: str, document: Mapping[str, Any]) -> Iterator[None]:
    """Remember what is being applied until it is saved or forgotten, or was taken back. Raises PrerequisiteError when
    that cannot be written down."""
    earlier = unfinished(kind)
    try:
        _note(kind, [*earlier, document])
    except OSError as error:
        raise PrerequisiteError(f"{_unfinished_path(kind)}: {error.strerror or error}") from error
    try:
        yield
    except UndoError:
        raise
    except BaseException:
        # What went wrong is more than that the note stays.
        with contextlib.suppress(OSError):
            _note(kind, earlier)
        raise


def finish(kind: str) -> None:
    """What was begun has come to its end."""
    _note(kind, [])


def unfinished(kind: str) -> List[Dict[str, Any]]:
    """What runs were about to apply that were killed, the last one last. What cannot be read is left out."""
    with contextlib.suppress(ReadError):
        documents = _read(_unfinished_path(kind))
        return [each for each in documents if isinstance(each, dict)] if isinstance(documents, list) else []
    return []


def _unfinished_path(kind: str) -> str:
    return os.path.join(DIRECTORY, f"{kind}.unfinished")


def _note(kind: str, documents: List[Any]) -> None:
    path = _unfinished_path(kind)
    if documents:
        write_file(File(path, _text(documents), "0600"))
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True) + "\n"


@functools.lru_cache(maxsize=2)
def _decoded(text: str) -> Any:
    """The boot unit and the kind that it restores both ask for one document, of which large ones take a while."""
    return json.loads(text)


def _read(path: str) -> Any:
    file = read_file(path)
    if file is None:
        return None
    try:
        return _decoded(file.content)
    except ValueError as error:
        problem = f"not readable as JSON ({error})"
        raise ReadError(f"{path}: {problem}; run the playbook again to write it anew") from None
