# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Starting the lab's own processes: marked, detached, in the right namespace, never outliving who must hold them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.processes import MARK

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def enter_network(namespace: Path) -> None:
    """Move the calling thread into a network namespace."""
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if _libc.setns(handle, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"entering {namespace}: {os.strerror(number)}")
    finally:
        os.close(handle)


def detached(
    command: Sequence[str], *, lab_dir: Path, log: Path, cwd: Path | None = None, namespace: Path | None = None
) -> subprocess.Popen[bytes]:
    """A background process of the lab: in a session of its own, with its output in a log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=cwd, env={**os.environ, MARK: str(lab_dir)}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=(lambda: enter_network(namespace)) if namespace else None,
        )  # fmt: skip


def held(
    command: Sequence[str],
    *,
    executable: str | None = None,
    environment: Mapping[str, str] | None = None,
    namespace: Path | None = None,
) -> subprocess.Popen[bytes]:
    """A child that is killed when its parent ends, however that ends."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if namespace:
            enter_network(namespace)

    return subprocess.Popen(
        command, executable=executable, stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})}, preexec_fn=prepare,
    )  # fmt: skip
