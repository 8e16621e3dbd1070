# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The runtime's tree as a node gets it, in a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import Tree, build


@pytest.fixture(scope="session")
def tree(root_dir: Path) -> Tree:
    return build(root_dir)


@pytest.fixture
def installed(tree: Tree, tmp_path: Path) -> Path:
    """Directory of the unpacked tree, named after its version."""
    archive = tmp_path / "tree.tar.gz"
    archive.write_bytes(tree.archive())
    directory = tmp_path / tree.version
    unpack(str(archive), str(directory))
    return directory
