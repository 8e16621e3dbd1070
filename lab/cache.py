# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Things built once and kept: named by the hash of their recipe, complete or absent, safe to build twice at once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import state


def key(*recipe: str) -> str:
    """Hash of everything that decides the content."""
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The cached entry of this name; ``build`` fills a temporary path when there is none yet."""
    path = state.CACHE / name
    if path.exists():
        return path
    with _lock(name):
        if not path.exists():
            temporary = state.CACHE / f".{name}.new"
            _remove(temporary)
            try:
                build(temporary)
                temporary.rename(path)
            finally:
                _remove(temporary)
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _lock(name: str) -> Iterator[None]:
    state.CACHE.mkdir(parents=True, exist_ok=True)
    handle = os.open(state.CACHE / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
