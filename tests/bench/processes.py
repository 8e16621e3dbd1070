# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Processes run to their end, with what they cost."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    seconds: float
    peak_mib: float
    output: str


def run(command: Sequence[str], data: str = "", environment: Mapping[str, str] | None = None) -> Done:
    """``data`` is what it reads; ``environment`` is added to ours. Between the process and us there are files, so that
    it never waits for us."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.write(data)
        given.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=given, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    assert process.returncode == 0, f"{' '.join(command)}: status {process.returncode}\n{output}"
    return Done(seconds, usage.ru_maxrss / 1024, output)
