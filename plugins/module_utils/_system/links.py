# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Symbolic links on the node, replaced by rename."""

from __future__ import annotations

import os
from typing import Iterable, Iterator, Optional, Sequence

from .._model.errors import ApplyError, ReadError
from .._model.item import State, state_of
from .._model.runtime import Link
from .._plan.operation import DELETE, Operation
from .files import make_directories


class LinkAdapter:
    """Speaks for exactly the given paths."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(set(paths))

    def read(self) -> State:
        found = (read_link(path) for path in self.paths)
        return state_of(link for link in found if link is not None)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            link = operation.item
            assert isinstance(link, Link)
            try:
                if operation.action == DELETE:
                    os.unlink(link.path)
                else:
                    _write(link)
            except OSError as error:
                raise ApplyError(link, str(error)) from error
            yield operation


def read_link(path: str) -> Optional[Link]:
    """The link as it is, None when there is none. Something else in its place is a ReadError."""
    try:
        return Link(path, os.readlink(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ReadError(f"{path}: is there, but not as a symbolic link; move it away first") from error


def _write(link: Link) -> None:
    make_directories(os.path.dirname(link.path))
    temporary = f"{link.path}.fairlead-new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(link.target, temporary)
    os.rename(temporary, link.path)
