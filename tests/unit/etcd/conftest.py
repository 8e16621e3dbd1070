# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.etcd.member_node import Node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)
