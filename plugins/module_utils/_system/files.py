# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Files on the node: read whole, written by rename so that a reader sees the old or the new one."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import tempfile
from typing import Iterable, Iterator, Optional, Sequence

from .._model.errors import ApplyError, ReadError
from .._model.files import File
from .._model.item import State, state_of
from .._plan.operation import DELETE, Operation

# For what a boot makes moot: locks, notes of reloads that are due, what load balancers are told. Tests say another
# place in the environment.
RUN_DIRECTORY = os.environ.get("FAIRLEAD_RUN_DIR") or "/run/fairlead"
#: For command ``fairlead health``. It is there as long as there is somebody to answer, and not before the services are.
HEALTH_CHECKS = os.path.join(RUN_DIRECTORY, "health_checks.json")


class FileAdapter:
    """Speaks for exactly the given paths."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = sorted(set(paths))

    def read(self) -> State:
        found = (read_file(path) for path in self.paths)
        return state_of(file for file in found if file is not None)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            file = operation.item
            assert isinstance(file, File)
            try:
                if operation.action == DELETE:
                    remove_file(file.path)
                else:
                    write_file(file)
            except (OSError, KeyError) as error:
                raise ApplyError(file, str(error)) from error
            yield operation


def read_file(path: str) -> Optional[File]:
    """The file as it is, or None when there is none. A directory, device or link in its place is a ReadError."""
    try:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            # Writing would put a file in the link's place, and nothing could bring the link back.
            raise ReadError(f"{path}: is a symbolic link to {os.readlink(path)}; move it away first")
        if not stat.S_ISREG(info.st_mode):
            raise ReadError(f"{path}: is there, but not as a regular file; move it away first")
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            content = stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return None
        raise ReadError(f"{path}: {error.strerror}") from error
    mode = f"{stat.S_IMODE(info.st_mode):04o}"
    return File(path, content, mode, _user_name(info.st_uid), _group_name(info.st_gid))


def write_file(file: File) -> None:
    """Write by rename; missing parent directories are made 0755."""
    directory = os.path.dirname(file.path)
    make_directories(directory)
    handle, temporary = tempfile.mkstemp(prefix=".fairlead-", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(file.content)
            stream.flush()
            os.fchmod(handle, int(file.mode, 8))
            os.fchown(handle, _user_id(file.owner), _group_id(file.group))
            # A power loss after the rename must not leave an empty file: content reaches the disk first.
            os.fsync(handle)
        os.rename(temporary, file.path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(directory)


def make_directories(path: str, mode: int = 0o755) -> None:
    """Make what is missing of ``path``: its last part with ``mode``, those above 0755, whatever root's umask is.

    Directories that are there keep their rights.
    """
    if not path or os.path.isdir(path):
        return
    make_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError), usual_umask():
        os.mkdir(path, mode)


@contextlib.contextmanager
def usual_umask() -> Iterator[None]:
    """What is made inside gets the rights that were asked for. Root's own umask may be 077."""
    umask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(umask)


def _sync_directory(directory: str) -> None:
    """Have the new name on the disk too: what was reported as written must be there after a power loss."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_directory(path: str) -> None:
    """Remove a directory that is there and empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_id(name: str) -> int:
    """The inverse of ``_user_name``: a number stands for itself when nobody has it as a name."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        if not name.isdecimal():
            raise
        return int(name)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if not name.isdecimal():
            raise
        return int(name)
