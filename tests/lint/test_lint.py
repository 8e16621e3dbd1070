# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The checkers, each one a test, so that `make test` counts them like all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKERS = {
    "ruff": ["ruff", "check", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary"],
    "mypy of the demo": ["mypy", "--no-error-summary", "scripts/demo"],
    "yamllint": ["yamllint", "--strict", "."],
    "ansible-lint": ["ansible-lint", "-q", "--nocolor", "--strict"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_checker_finds_nothing(checker: str, root_dir: Path) -> None:
    program, *arguments = CHECKERS[checker]
    command = [str(Path(sys.executable).parent / program), *arguments]
    result = subprocess.run(command, cwd=root_dir, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, f"{checker} has something to say:\n{result.stdout}{result.stderr}"
