# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How commands of the node runtime start other commands."""

from __future__ import annotations

import os
import subprocess
from typing import Optional, Sequence, Tuple

# Longer than any command here takes; iptables waits for its lock, modprobe for hardware.
TIMEOUT_SECONDS = 60
NOT_FOUND, TIMED_OUT = 127, 124


def run(args: Sequence[str], data: Optional[str] = None) -> Tuple[int, str, str]:
    """A ``fairlead._system.runner.Runner``: messages in English, status 124 after ``TIMEOUT_SECONDS``."""
    try:
        done = subprocess.run(
            list(args),
            input=data,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
    except FileNotFoundError:
        return NOT_FOUND, "", f"{args[0]}: command not found"
    except subprocess.TimeoutExpired:
        return TIMED_OUT, "", f"{args[0]}: no end after {TIMEOUT_SECONDS} s"
    return done.returncode, done.stdout, done.stderr
