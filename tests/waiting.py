# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting for what comes to be by itself, and not for ever."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

#: Set where tests run in a guest, see tests/kernel/guest.py.
INSIDE_GUEST = "FAIRLEAD_TEST_GUEST"
#: Times to wait for other programs are multiplied with it: an emulated machine takes longer for everything.
PATIENCE = 5 if INSIDE_GUEST in os.environ else 1
START_SECONDS = 60 * PATIENCE


def wait_until(holds: Callable[[], object], what: str, seconds: float = START_SECONDS, every: float = 0.1) -> None:
    """Fails the test when it does not come to be."""
    end_of_waiting = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_of_waiting, f"after {seconds:g} s it is still not so that {what}"
        time.sleep(every)


def has_open(pid: int, path: Path) -> bool:
    """Whether a process, which may be gone or let nobody look, has this file open."""
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if path.samefile(each):
                    return True
    return False
