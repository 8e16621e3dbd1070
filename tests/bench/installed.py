# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The runtime as it is installed on nodes, with a saved desired state of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build

TOP = Path(__file__).resolve().parents[2]


class Installed:
    def __init__(self, directory: Path) -> None:
        tree = build(TOP)
        archive = directory / "tree.tar.gz"
        archive.write_bytes(tree.archive())
        self.tree = directory / tree.version
        unpack(str(archive), str(self.tree))
        self.state = directory / "state"
        self.state.mkdir()
        # A first run writes the compiled modules, as role node does when it installs the tree.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(self.tree)], check=True)

    def save(self, kind: str, document: Mapping[str, Any]) -> None:
        (self.state / f"{kind}.json").write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))

    def restore(self) -> list[str]:
        """The command that applies what is saved."""
        return [*self._environment(), sys.executable, "-I", str(self.tree / "bin" / "fairlead"), "restore"]

    def script(self, code: str) -> list[str]:
        """The command that runs Python code with the installed library."""
        return [*self._environment(), f"PYTHONPATH={self.tree / 'lib'}", sys.executable, "-c", code]

    def _environment(self) -> list[str]:
        return ["env", f"FAIRLEAD_STATE_DIR={self.state}"]
