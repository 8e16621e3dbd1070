# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Versions of the node runtime under one directory, each unpacked beside the others and then renamed into place."""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import stat
import tarfile
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from .._model.errors import ApplyError, PrerequisiteError
from .._model.item import State, state_of
from .._model.runtime import VERSION, RuntimeTree, tree_digest
from .._plan.operation import DELETE, Operation
from .files import make_directories, usual_umask

_NEW, _REMOVED = ".new-", ".removed-"
# Python's compiled files: made on the node, different for each Python, checked by Python itself.
_COMPILED = "__pycache__"


class TreeAdapter:
    """Speaks for all versions under ``directory``; only ``wanted`` is examined file by file.

    What is removed or replaced is kept aside, so that it can be brought back, until ``finish``.
    """

    def __init__(self, directory: str, wanted: Optional[RuntimeTree], archive: Optional[str]) -> None:
        self.directory = directory
        self.wanted = wanted
        self.archive = archive

    def read(self) -> State:
        return state_of(RuntimeTree(version, self._digest(version)) for version in self._versions())

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            tree = operation.item
            assert isinstance(tree, RuntimeTree)
            try:
                if operation.action == DELETE:
                    self._set_aside(tree.version)
                else:
                    self._put(tree)
            except (OSError, tarfile.TarError) as error:
                raise ApplyError(tree, str(error)) from error
            yield operation

    def finish(self) -> None:
        """Drop what was kept aside, and what a killed run left."""
        for name in self._names():
            if name.startswith((_NEW, _REMOVED)):
                shutil.rmtree(os.path.join(self.directory, name))

    def _names(self) -> List[str]:
        return sorted(os.listdir(self.directory)) if os.path.isdir(self.directory) else []

    def _versions(self) -> List[str]:
        return [name for name in self._names() if VERSION.fullmatch(name) and not os.path.islink(self._path(name))]

    def _path(self, version: str, prefix: str = "") -> str:
        return os.path.join(self.directory, f"{prefix}{version}")

    def _digest(self, version: str) -> str:
        wanted = self.wanted is not None and version == self.wanted.version
        return digest_of(self._path(version)) if wanted else ""

    def _put(self, tree: RuntimeTree) -> None:
        if tree == self.wanted:
            self._install(tree)
        else:
            self._set_aside(tree.version, prefix=_NEW)
            os.rename(self._path(tree.version, _REMOVED), self._path(tree.version))

    def _install(self, tree: RuntimeTree) -> None:
        if self.archive is None:
            raise PrerequisiteError(f"{tree}: is not on this node and no archive of it was given")
        new = self._path(tree.version, _NEW)
        shutil.rmtree(new, ignore_errors=True)
        unpack(self.archive, new)
        found = digest_of(new)
        if found != tree.digest:
            raise ApplyError(tree, f"{self.archive} holds another tree, with sha256 {found[:12]}")
        with usual_umask():
            compileall.compile_dir(
                os.path.join(new, "lib"), ddir=os.path.join(self._path(tree.version), "lib"), quiet=2
            )
        # After a power loss the link must not lead to files whose content never reached the disk.
        os.sync()
        self._set_aside(tree.version)
        os.rename(new, self._path(tree.version))

    def _set_aside(self, version: str, prefix: str = _REMOVED) -> None:
        if os.path.isdir(self._path(version)):
            shutil.rmtree(self._path(version, prefix), ignore_errors=True)
            os.rename(self._path(version), self._path(version, prefix))


def digest_of(directory: str) -> str:
    """Digest of all files below a directory, apart from compiled ones. Links and the like count by their type."""
    files: Dict[str, Tuple[str, str]] = {}
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name != _COMPILED]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*names, *links]:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, directory)] = _examined(path)
    return tree_digest(files)


def _examined(path: str) -> Tuple[str, str]:
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):
        return f"{stat.S_IMODE(info.st_mode):04o}", f"type {stat.S_IFMT(info.st_mode):o}"
    with open(path, "rb") as stream:
        return f"{stat.S_IMODE(info.st_mode):04o}", hashlib.sha256(stream.read()).hexdigest()


def unpack(archive: str, directory: str) -> None:
    """Regular files only, each inside ``directory``, whose last part is made. Modes as archived whatever the umask."""
    with tarfile.open(archive, "r:gz") as packed:
        for entry in packed:
            parts = entry.name.split("/")
            if not entry.isfile() or ".." in parts or "" in parts:
                raise tarfile.TarError(f"{archive}: unexpected entry {entry.name!r}")
            _unpack_entry(packed, entry, os.path.join(directory, *parts))


def _unpack_entry(packed: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
    make_directories(os.path.dirname(path))
    source = packed.extractfile(entry)
    assert source is not None, "a regular file has content"
    with open(path, "wb") as target:
        shutil.copyfileobj(source, target)
        os.fchmod(target.fileno(), entry.mode & 0o777)
