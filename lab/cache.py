# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Things built once and kept: named by the hash of their recipe, complete or absent, safe to build twice at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import state

#: An entry that nobody used for so long goes; its recipe builds it again.
KEPT_SECONDS = 30 * 24 * 3600
#: The lock of an entry, whose time of change is that of the entry's last use.
_LOCK = re.compile(r"\.(.+)\.lock")


def key(*recipe: str) -> str:
    """Hash of everything that decides the content."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The cached entry of this name; ``build`` fills a temporary path when there is none yet."""
    path = state.CACHE / name
    # In a guest, which sees the files of this machine and changes none.
    if path.exists() and not os.access(state.CACHE, os.W_OK):
        return path
    with _lock(name):
        if not path.exists():
            temporary = _temporary(name)
            _remove(temporary)
            try:
                build(temporary)
                temporary.rename(path)
            finally:
                _remove(temporary)
    return path


def touch(path: Path) -> None:
    """Note that an entry is being used."""
    if path.parent == state.CACHE:
        with _lock(path.name):
            pass


def prune(in_use: Collection[Path], now: float | None = None) -> list[str]:
    """Remove entries, and remains of builds, that nobody used for KEPT_SECONDS; tells their names.

    Those in use stay, and so do those that are being built: their lock is held.
    """
    locks = sorted(state.CACHE.glob(".*.lock"))
    names = [match[1] for match in (_LOCK.fullmatch(path.name) for path in locks) if match]
    kept = {path.name for path in in_use if path.parent == state.CACHE}
    since = (time.time() if now is None else now) - KEPT_SECONDS
    return [name for name in names if name not in kept and _prune(name, since)]


def _prune(name: str, since: float) -> bool:
    """Whether the entry was not used since then, and is gone. One that cannot be removed is left to a later time."""
    lock = _lock_path(name)
    # Never in the way of what the caller came for.
    with contextlib.suppress(OSError):
        if lock.stat().st_mtime >= since:
            return False
        handle = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_mtime >= since or not _is_at(handle, lock):
                return False
            path, temporary = state.CACHE / name, _temporary(name)
            _remove(temporary)
            if path.exists():
                # Complete or absent at any time, for whoever does not ask for the lock.
                path.rename(temporary)
                _remove(temporary)
            lock.unlink()
            return True
        finally:
            os.close(handle)
    return False


def _temporary(name: str) -> Path:
    return state.CACHE / f".{name}.new"


def _lock_path(name: str) -> Path:
    return state.CACHE / f".{name}.lock"


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has the name: a lock on one that was removed meanwhile holds nobody."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold an entry, which counts as using it."""
    state.CACHE.mkdir(parents=True, exist_ok=True)
    path = _lock_path(name)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                os.utime(handle)
                yield
                return
        finally:
            os.close(handle)
