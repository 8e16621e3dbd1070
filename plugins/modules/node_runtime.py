#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The node runtime under /opt/fairlead. The action plugin of the same name brings the tree."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_runtime
short_description: Install the node runtime
version_added: 0.1.0
author: the Fairlead authors
description:
  - Puts the node runtime on a node, which is one tree of Python files with the collection's library, pyroute2 and the
    command C(fairlead), and enables the unit that restores the network at boot. Needs Python 3.9 on the node and no
    network there.
  - The tree is put together from the collection and from pyroute2 of the Python that runs C(ansible-playbook). It is
    copied only when the node does not have exactly these files.
  - A new version is unpacked beside the present one and chosen by switching the link F(/opt/fairlead/current). The
    version before stays and F(/opt/fairlead/previous) leads to it; older ones are removed.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  state:
    description: With V(absent) all versions, links and units are removed.
    type: str
    choices: [present, absent]
    default: present
  path:
    description: Directory of the versions.
    type: path
    default: /opt/fairlead
  command_path:
    description: Link to the command of the current version.
    type: path
    default: /usr/local/bin/fairlead
  unit_path:
    description: Directory of systemd's units.
    type: path
    default: /etc/systemd/system
  version:
    description: Version to install. Filled in by the action plugin, as the options below.
    type: str
  digest:
    description: Digest of the version's files.
    type: str
  archive:
    description: File on the node with the version's tree. Without it a node that lacks the version is only examined.
    type: path
  units:
    description: Units of systemd.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit, with its ending.
        type: str
        required: true
      content:
        description: Content of the unit.
        type: str
        required: true
      enabled:
        description: Whether systemd starts it at boot.
        type: bool
        default: false
notes:
  - pyroute2 0.9.7 or newer must be installed where C(ansible-playbook) runs.
seealso:
  - module: fairlead.cluster.kernel_settings
"""

EXAMPLES = r"""
- name: Install the node runtime
  fairlead.cluster.node_runtime:

- name: Remove it
  fairlead.cluster.node_runtime:
    state: absent
"""

RETURN = r"""
version:
  description: Version that was wanted.
  returned: when O(state=present)
  type: str
  sample: 0.1.0-5891b5b522d5
before:
  description: Versions, links and units as found.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: success
  type: list
  elements: str
  sample:
    - + runtime 0.1.0-5891b5b522d5 sha256 5891b5b522d5
    - + link /opt/fairlead/current -> 0.1.0-5891b5b522d5
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {before: {runtime_tree: 20}}
archive_needed:
  description: Whether O(archive) has to be given to go on. The action plugin sees to that.
  returned: when nothing was done because of that
  type: bool
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired.node_runtime import converge, needs_archive
from ..module_utils._system.runner import module_runner

UNIT_SPEC = {
    "name": {"type": "str", "required": True},
    "content": {"type": "str", "required": True},
    "enabled": {"type": "bool", "default": False},
}
ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "path": {"type": "path", "default": "/opt/fairlead"},
    "command_path": {"type": "path", "default": "/usr/local/bin/fairlead"},
    "unit_path": {"type": "path", "default": "/etc/systemd/system"},
    "version": {"type": "str"},
    "digest": {"type": "str"},
    "archive": {"type": "path"},
    "units": {"type": "list", "elements": "dict", "default": [], "options": UNIT_SPEC},
}
REQUIRED_IF = [("state", "present", ("version", "digest"))]


def body(module: AnsibleModule) -> Dict[str, Any]:
    present = module.params["state"] == "present"
    dropped = {"state"} if present else {"state", "version", "digest", "archive"}
    document = {name: value for name, value in module.params.items() if name not in dropped}
    runner = module_runner(module)
    planned = converge(document, True, runner)
    if module.check_mode:
        return {**result_of(module, planned, "node runtime"), "version": module.params["version"]}
    if needs_archive(planned) and module.params["archive"] is None:
        return {"changed": False, "archive_needed": True}
    outcome = converge(document, False, runner)
    return {**result_of(module, outcome, "node runtime"), "version": module.params["version"]}


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
