# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""One run at a time for each kind of state: a playbook, the boot unit and a second playbook may meet on a node."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import Iterator, Set

from .._model.errors import FairleadError
from .files import RUN_DIRECTORY, make_directories

# The kernel lets go of a lock when its holder ends, however it ends.
DIRECTORY = os.path.join(RUN_DIRECTORY, "lock")
# Even 20,000 peers take a run seconds.
WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.1
# By this process, in which one run goes on at a time.
_held: Set[str] = set()


class LockedError(FairleadError):
    """Another run goes on for longer than anybody should wait."""


@contextlib.contextmanager
def exclusive(kind: str, check: bool = False, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Be the only run that changes a kind of state, from what it reads first to what it remembers last. A part of such
    a run may ask again; check mode changes nothing and needs not be alone.

    Raises LockedError naming the other run after ``wait`` seconds.
    """
    if check or kind in _held:
        yield
        return
    make_directories(DIRECTORY)
    path = os.path.join(DIRECTORY, kind)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(handle, kind, path, time.monotonic() + wait)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        _held.add(kind)
        yield
    finally:
        _held.discard(kind)
        os.close(handle)


def _acquire(handle: int, kind: str, path: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise
        if time.monotonic() >= deadline:
            holder = os.pread(handle, 32, 0).decode(errors="replace")
            raise LockedError(
                f"{kind}: another run, process {holder or 'unknown'}, is changing it; try again when that has ended "
                f"(it holds {path})"
            )
        time.sleep(_POLL_SECONDS)
