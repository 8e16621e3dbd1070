#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy left in the kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_proxy_state
short_description: Remove what kube-proxy left in the kernel in other modes
version_added: 0.1.0
author: the Fairlead authors
description:
  - Removes chains, sets, tables, virtual services and the device C(kube-ipvs0) that kube-proxy made in modes that it is
    not in any more. What stays is that of mode O(keep).
  - Takes only what is kube-proxy's by its name, and virtual services on an address of C(kube-ipvs0), or, where that
    device is, on an address of the node with a port of O(node_ports). Never virtual services in O(exclude_cidrs), those
    that modules of this collection made, those of firewall marks, and any others; kube-proxy's own C(--cleanup) removes
    all of them.
  - Takes the sets of IPv6 (C(KUBE-6-*)) too, which C(--cleanup) leaves.
  - When a step fails, everything that was removed comes back.
  - Refuses to remove what kube-proxy of this node is configured for.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  keep:
    description: The mode whose state stays; V(none) when kube-proxy is gone.
    type: str
    choices: [ipvs, nftables, iptables, none]
    required: true
  exclude_cidrs:
    description: Networks in which virtual services are somebody else's.
    type: list
    elements: str
    default: []
  node_ports:
    description: First and last port of those that the API server gives to services.
    type: str
    default: 30000-32767
  directory:
    description: Directory with the configuration of kube-proxy.
    type: path
    default: /etc/fairlead/kube-proxy
  switching:
    description:
      - A task before this one configures kube-proxy for mode O(keep). In check mode it did not, and what would be
        removed is told all the same.
    type: bool
    default: false
seealso:
  - module: fairlead.cluster.kube_proxy
"""

EXAMPLES = r"""
- name: Remove what is left of mode ipvs
  fairlead.cluster.kube_proxy_state:
    keep: nftables
    exclude_cidrs: [198.18.0.0/24]
"""

RETURN = r"""
others:
  description: Virtual services that were left, because nothing says that they are kube-proxy's or this collection's.
  returned: success
  type: list
  elements: str
  sample: ["tcp 203.0.113.7:443"]
before:
  description: What of kube-proxy was found that does not belong to O(keep).
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
left_out:
  description: How many objects of which kind are not in which of the lists, which hold at most 100 of each kind.
  returned: when there are more
  type: dict
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired.kube_proxy_state import converge
from ..module_utils._system.runner import module_runner

ARGUMENT_SPEC = {
    "keep": {"type": "str", "choices": ["ipvs", "nftables", "iptables", "none"], "required": True},
    "exclude_cidrs": {"type": "list", "elements": "str", "default": []},
    "node_ports": {"type": "str", "default": "30000-32767"},
    "directory": {"type": "path", "default": "/etc/fairlead/kube-proxy"},
    "switching": {"type": "bool", "default": False},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    outcome, others = converge(module.params, module.check_mode, module_runner(module))
    return {**result_of(module, outcome, "kube-proxy in the kernel"), "others": others}


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
