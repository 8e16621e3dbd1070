# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""For all tests: the tools of the virtual environment come first, and tests that need root say so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel") or item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
