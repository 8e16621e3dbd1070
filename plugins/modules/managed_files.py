#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Many small files in one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Keep a set of small text files as declared
version_added: 0.1.0
author: the Fairlead authors
description:
  - Writes and removes small text files, any number in one task.
  - Files are written by rename, so that a reader sees the old or the new one. When one of them fails, those written
    before are put back.
  - Services that have to be told of changed files are told in the same task. When a run is cut off between the two, the
    next one tells them and is V(changed) for that alone.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  files:
    description: The files. Paths must be unique.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Missing parent directories are made with mode V(0755).
        type: path
        required: true
      content:
        description: The whole content. Ignored for a file that shall be absent.
        type: str
        default: ""
      mode:
        description: Access rights as four octal digits in a string.
        type: str
        default: "0644"
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      state:
        description: Whether this file shall be there. Default is the module's O(state).
        type: str
        choices: [present, absent]
      reload:
        description:
          - Services that read this file, reloaded when it changes. V(systemd) reads its units anew; V(udev),
            V(networkd) and V(network_manager) are reloaded, or restarted where they know no reload, and only if they
            run.
          - Does nothing on a machine that systemd does not run.
        type: list
        elements: str
        choices: [systemd, udev, networkd, network_manager]
        default: []
  state:
    description: Whether files without a O(files[].state) of their own shall be there.
    type: str
    choices: [present, absent]
    default: present
  show_content:
    description:
      - Whether C(--diff) shows lines of the files.
      - With V(false) it shows size and digest only. That alone does not hide a secret, because the content is an
        argument of the task; set C(no_log) on the task too.
    type: bool
    default: true
seealso:
  - module: fairlead.cluster.kernel_settings
"""

EXAMPLES = r"""
- name: Keep network managers off our devices
  fairlead.cluster.managed_files:
    files:
      - path: /etc/systemd/network/10-fairlead-unmanaged.network
        content: |
          [Match]
          Name=flannel*
          [Link]
          Unmanaged=yes
        reload: [networkd]
      - path: /etc/cni/net.d/99-loopback.conf
        state: absent
"""

RETURN = r"""
changed_paths:
  description: Paths of the files that were written or removed (check mode would be).
  returned: success
  type: list
  elements: str
before:
  description:
    - The files as found, with size in bytes and SHA-256 in place of the content. Also reloads that an earlier run noted
      and did not come to do.
  returned: success
  type: list
  elements: dict
  sample:
    - {kind: file, path: /etc/x, mode: "0644", owner: root, group: root, size: 12, sha256: 22c7d1a1f1b0}
after:
  description: The files as they are now (check mode would be). Same shape as RV(before).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each file written or removed, and for each reload when it is noted and when it is done.
  returned: success
  type: list
  elements: str
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import items_of, run
from ..module_utils._desired.managed_files import changed_paths, converge
from ..module_utils._model.files import File
from ..module_utils._model.reload import SERVICES, DueReload
from ..module_utils._system.runner import module_runner

if TYPE_CHECKING:
    from ..module_utils._engine import Outcome
    from ..module_utils._model.item import Item

STATES = ["present", "absent"]
FILE_SPEC = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "default": ""},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "state": {"type": "str", "choices": STATES},
    "reload": {"type": "list", "elements": "str", "choices": list(SERVICES), "default": []},
}
ARGUMENT_SPEC = {
    "files": {"type": "list", "elements": "dict", "required": True, "options": FILE_SPEC},
    "state": {"type": "str", "choices": STATES, "default": "present"},
    "show_content": {"type": "bool", "default": True},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    files = [{**entry, "state": entry["state"] or module.params["state"]} for entry in module.params["files"]]
    outcome = converge({"files": files}, module.check_mode, module_runner(module))
    result: Dict[str, Any] = {
        "changed": outcome.changed,
        "changed_paths": changed_paths(outcome),
        "before": items_of(outcome.before),
        "after": items_of(outcome.after),
        "operations": [str(operation) for operation in outcome.operations],
    }
    if module._diff:
        result["diff"] = _diffs(outcome, module.params["show_content"])
    return result


def _diffs(outcome: Outcome, show_content: bool) -> List[Dict[str, str]]:
    diffs = []
    for path in changed_paths(outcome):
        before, after = (state.get((File.kind, path)) for state in (outcome.before, outcome.after))
        shown = show_content and _content(before) != _content(after)
        text = _content if shown else _line
        diffs.append(
            {
                "before_header": _header(path, before),
                "after_header": _header(path, after),
                "before": text(before),
                "after": text(after),
            }
        )
    left = [item for item in outcome.before.values() if isinstance(item, DueReload)]
    return diffs + [{"before_header": str(item), "before": _line(item), "after": ""} for item in left]


def _header(path: str, file: Optional[Item]) -> str:
    return f"{path} ({file.mode} {file.owner}:{file.group})" if isinstance(file, File) else f"{path} (absent)"


def _content(file: Optional[Item]) -> str:
    """For showing: bytes that are not UTF-8 become replacement characters."""
    return file.data.decode("utf-8", "replace") if isinstance(file, File) else ""


def _line(file: Optional[Item]) -> str:
    return "" if file is None else f"{file}\n"


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
