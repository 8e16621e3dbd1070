# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Directories of keys and certificates taken away: the files that we made, then what is empty, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from typing import Any, ClassVar, Dict, Hashable, Iterator, List, Mapping, Sequence, Set, Tuple

from .._engine import Combined, Outcome
from .._engine import converge as engine_converge
from .._model.errors import ApplyError, SpecError
from .._model.files import File
from .._model.item import BaseItem, Item, State, state_of
from .._model.parse import Section
from .._plan.operation import DELETE, Operation
from .._system.files import FileAdapter, make_directories, read_file
from .record import NAME, PREFIX, Record, digest_of


@dataclasses.dataclass(frozen=True)
class Directory(BaseItem):
    """A directory that is empty once our files are gone."""

    kind: ClassVar[str] = "directory"
    path: str
    mode: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def __str__(self) -> str:
        return f"directory {self.path} {self.mode}"


@dataclasses.dataclass(frozen=True)
class Removed:
    """``left``: what stays in the directories because others made or changed it."""

    outcome: Outcome
    left: List[str]


def converge(document: Mapping[str, Any], check: bool) -> Removed:
    """Document: the parameters of module ``pki_directory``. Raises SpecError, ReadError."""
    paths = _parse_paths(Section(document))
    files = [file for path in paths for file in _ours(path)]
    directories = _Directories(paths, {file.path for file in files})
    adapter = Combined({File.kind: FileAdapter(file.path for file in files), Directory.kind: directories})
    outcome = engine_converge(adapter, _removal, check)
    return Removed(outcome, directories.left())


def _parse_paths(section: Section) -> List[str]:
    paths = section.list("paths")
    for index, path in enumerate(paths):
        if not isinstance(path, str) or not path.startswith("/"):
            raise SpecError(f"paths[{index}]", f"must be an absolute path, not {path!r}")
    return [os.path.normpath(path) for path in dict.fromkeys(paths)]


def _ours(directory: str) -> Iterator[File]:
    """Files that still have a content we wrote, and our temporary files."""
    digests: Dict[str, List[str]] = Record(directory).read()
    for path in sorted({*digests, *_entries(directory)}):
        if path in digests or os.path.basename(path).startswith(PREFIX):
            file = read_file(path) if _is_file(path) else None
            if file is not None and digest_of(file.content) in digests.get(path, [digest_of(file.content)]):
                yield file


def _is_file(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def _entries(directory: str) -> List[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    return []


def _removal(have: State) -> List[Operation]:
    return [Operation(DELETE, item) for item in sorted(have.values(), key=_turn)]


def _turn(item: Item) -> Tuple[int, int, str]:
    """Records after what they prove to be ours, which a kill in between must not leave unproved; directories last."""
    assert isinstance(item, (File, Directory))
    if isinstance(item, Directory):
        return (2, -len(item.path), item.path)
    return (int(os.path.basename(item.path) == NAME), 0, item.path)


class _Directories:
    """Speaks for those of ``paths`` that hold nothing but ``ours`` and each other."""

    def __init__(self, paths: Sequence[str], ours: Set[str]) -> None:
        # Inner ones first: an outer one may go when they do.
        self.paths = sorted(paths, key=len, reverse=True)
        self.ours = ours

    def read(self) -> State:
        going: Dict[str, Directory] = {}
        for path in self.paths:
            if os.path.isdir(path) and not os.path.islink(path) and {*_entries(path)} <= {*self.ours, *going}:
                going[path] = Directory(path, f"{stat.S_IMODE(os.stat(path).st_mode):04o}")
        return state_of(going.values())

    def left(self) -> List[str]:
        return sorted({entry for path in self.paths for entry in _entries(path)} - self.ours - {*self.paths})

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            directory = operation.item
            assert isinstance(directory, Directory)
            try:
                if operation.action == DELETE:
                    os.rmdir(directory.path)
                else:
                    make_directories(directory.path, int(directory.mode, 8))
            except OSError as error:
                raise ApplyError(directory, str(error)) from error
            yield operation
