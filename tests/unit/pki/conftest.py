# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A node that has nothing yet, and one that has all its certificates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.pki.node import Node


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs root: the files belong to root"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def certified(node: Node) -> Node:
    node.run()
    node.outcomes.clear()
    return node
