#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The private key of a node for WireGuard."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_key
short_description: Keep the WireGuard key of this node
version_added: 0.1.0
author: the Fairlead authors
description:
  - Makes a private key where there is none, and keeps the one that is there. It never leaves the node; what peers need
    is the public key, which the module returns.
  - The public key is computed by the kernel, so a kernel with WireGuard is needed, in check mode too.
  - Unlike the key that a real flanneld makes in F(/run/flannel/wgkey), it survives a reboot. The file has the form that
    flanneld reads, so its environment variable E(WIREGUARD_KEY_FILE) may name it.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  state:
    description:
      - V(absent) removes the key, unless it is outside of F(/etc/fairlead), where it is the operator's. A node that
        gets a new one later is a new peer for all others.
    type: str
    choices: [present, absent]
    default: present
  path:
    description:
      - Absolute path of the file, which is made with mode 0400. Owner and mode of a file that is there are put right
        below F(/etc/fairlead), and left alone elsewhere.
    type: path
    default: /etc/fairlead/wireguard.key
seealso:
  - module: fairlead.cluster.overlay_network
"""

EXAMPLES = r"""
- name: Have a key
  fairlead.cluster.wireguard_key:
  register: own

- name: What peers need to know
  ansible.builtin.debug:
    var: own.public_key
"""

RETURN = r"""
public_key:
  description:
    - The public key in base64; null without a key.
    - In check mode a key that is yet to be made has a stand-in here, and RV(predicted) is true.
  returned: success
  type: str
  sample: fSXPDUbHZ7aBKDkV4BBvEOgGSzFPRQgnvTrc4VQWnGU=
predicted:
  description: Whether RV(public_key) is a stand-in for a key that check mode did not make.
  returned: success
  type: bool
before:
  description: The key as found, by its public key, and the rights of its file.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for what was made, put right or removed.
  returned: success
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {operations: {wireguard_key: 20}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired.wireguard_key import converge

SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "path": {"type": "path", "default": "/etc/fairlead/wireguard.key"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    present = module.params["state"] == "present"
    outcome, public_key = converge(module.params["path"], present, module.check_mode)
    predicted = module.check_mode and present and not outcome.before
    return {**result_of(module, outcome, "wireguard key"), "public_key": public_key, "predicted": predicted}


def main() -> None:
    run(AnsibleModule(SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
