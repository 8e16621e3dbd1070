#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Directories of keys and certificates."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pki_directory
short_description: Take away keys and certificates that were made here
version_added: 0.1.0
author: the Fairlead authors
description:
  - Removes the files that M(fairlead.cluster.pki_certificate) and M(fairlead.cluster.pki_authority) wrote, as long as
    they still hold what was written, and then the directories that are empty.
  - What was written is known by the record F(.fairlead-files) that both modules keep in their directory. Everything
    else stays, and the module warns of it.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  paths:
    description:
      - The directories. Those that are empty in the end are removed, whoever made them; so list no directory that
        others need.
    type: list
    elements: path
    required: true
  state:
    description: V(absent) is all there is.
    type: str
    choices: [absent]
    default: absent
"""

EXAMPLES = r"""
- name: Remove keys, certificates and authorities
  fairlead.cluster.pki_directory:
    state: absent
    paths: [/etc/fairlead/pki/ca, /etc/fairlead/pki, /etc/fairlead]
"""

RETURN = r"""
left:
  description: What stays in the directories because it was not written by the modules, or was changed since.
  returned: success
  type: list
  elements: str
  sample: [/etc/fairlead/pki/notes.txt]
before:
  description: Files of ours as found, without their content, and directories that are empty without them.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each file or directory removed.
  returned: success
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {before: {file: 20}, operations: {file: 20}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._pki import removal

ARGUMENT_SPEC = {
    "paths": {"type": "list", "elements": "path", "required": True},
    "state": {"type": "str", "choices": ["absent"], "default": "absent"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    removed = removal.converge(module.params, module.check_mode)
    if removed.left:
        module.warn(f"stays, as it was not made here or was changed since: {', '.join(removed.left)}")
    return {**result_of(module, removed.outcome, "keys and certificates"), "left": removed.left}


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
