# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Controller side of module node_runtime: puts the tree together, and copies it to nodes that lack it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.constants import DEFAULT_LOCAL_TMP
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import RuntimeTreeError, Tree, build

MODULE = "fairlead.cluster.node_runtime"
# The others are enabled by the roles whose work they do.
ENABLED_UNITS = ("fairlead-restore.service",)
OPTIONS = frozenset({"state", "path", "command_path", "unit_path"})
# plugins/action/node_runtime.py, followed through the links of a checkout, is two levels below the collection's root.
ROOT = Path(os.path.realpath(__file__)).parents[2]


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False
    _VALID_ARGS = OPTIONS

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        tree = self._tree()
        arguments = {**self._task.args, **_declared(tree)}
        result.update(self._module(arguments, task_vars))
        if result.pop("archive_needed", False):
            result.update(self._module({**arguments, "archive": self._copied(tree)}, task_vars))
        result.pop("invocation", None)
        return result

    def _tree(self) -> Tree:
        try:
            return build(ROOT)
        except (RuntimeTreeError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        return result

    def _copied(self, tree: Tree) -> str:
        """Path of the archive on the node."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, f"{tree.version}.tar.gz")
        self._transfer_file(str(_packed(tree)), remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        return str(remote)


def _declared(tree: Tree) -> dict[str, Any]:
    units = [
        {"name": name, "content": content, "enabled": name in ENABLED_UNITS} for name, content in tree.units.items()
    ]
    return {"version": tree.version, "digest": tree.digest, "units": units}


def _packed(tree: Tree) -> Path:
    """The archive in the directory of this run of Ansible, packed by whichever worker needs it first."""
    path = Path(DEFAULT_LOCAL_TMP, f"fairlead-{tree.version}.tar.gz")
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(tree.archive())
        os.rename(temporary, path)
    return path
