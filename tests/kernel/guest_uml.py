# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""User-mode Linux, of Debian's package, as a guest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kernel.guest import MEMORY_MIB

PROGRAM, MODULES = "linux.uml", Path("/usr/lib/uml/modules")


class UserModeLinux:
    def __init__(self, memory: int = MEMORY_MIB) -> None:
        """``memory`` in MiB."""
        self.memory = memory

    def modules(self) -> Path:
        if shutil.which(PROGRAM) is None or not MODULES.is_dir():
            pytest.skip(f"needs {PROGRAM} with its modules, of package user-mode-linux")
        return MODULES

    def command(self, init: Path, directory: Path, tap: str = "") -> list[str]:
        root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}", "quiet"]
        console = ["con=null", "con0=null,fd:1", "con1=null", f"uml_dir={directory}", f"mem={self.memory}M"]
        return [PROGRAM, *root, *console, *([f"eth0=tuntap,{tap}"] if tap else [])]
