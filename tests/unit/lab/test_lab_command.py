# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which lab a command line is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import __main__ as command
from lab import state


def test_without_a_name_only_the_inventory_s_own_lab_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LABS", tmp_path)
    inventory = state.REPO / "inventories" / "lab"
    state.Lab("other", str(inventory), "container", "192.0.2.0/24", "192.0.2.1", 512, {"a": "192.0.2.2"}).save()
    removed: list[str] = []
    monkeypatch.setattr(command.lifecycle, "down", lambda name: bool(removed.append(name)))
    assert command.main(["down", "-i", str(inventory)]) == 0
    assert removed == ["lab"]
