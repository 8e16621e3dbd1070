#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules and sysctls, now and at each boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_settings
short_description: Load kernel modules and set sysctls, now and at each boot
version_added: 0.1.0
author: the Fairlead authors
description:
  - Brings kernel modules and sysctls into force at once, and for later boots by a file of modules-load.d(5) and one of
    sysctl.d(5), all in one task.
  - A module counts as loaded when its function is there, be it built into the kernel or loaded by the host of a
    container. Otherwise C(modprobe) loads it.
  - Refuses before any change when a module does not exist for the running kernel, or when F(/proc/sys) is read-only
    (as in containers) and does not hold the wanted value already.
  - The value that a sysctl had before is kept in O(found_file). A sysctl that is no longer declared gets it back.
    Modules are never unloaded.
  - Where O(sysctls) turns on forwarding of IPv6 packets (C(net.ipv6.conf.all.forwarding)), devices that take router
    advertisements (C(accept_ra) 1) are told to go on with it (2) before that, or the node would lose the default route
    that it got by them. They get their setting back after forwarding is off. What is declared for a device wins, and
    devices that lead to pods are left out.
  - The node remembers the settings; C(fairlead verify) on the node tells when something else changed them.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  modules:
    description: Names of kernel modules.
    type: list
    elements: str
    default: []
  sysctls:
    description:
      - Sysctls by name, with strings or whole numbers as values.
      - A name has dots between its parts. As in sysctl.d(5), a slash stands for a dot inside a part
        (V(net.ipv4.conf.flannel/1.rp_filter)).
    type: dict
    default: {}
  optional_sysctls:
    description:
      - Like O(sysctls), for those that count only where the kernel has them. For example the limits of the neighbour
        table exist once for a kernel, and containers do not see them.
    type: dict
    default: {}
  modules_file:
    description: File with the names of the modules.
    type: path
    default: /etc/modules-load.d/fairlead.conf
  sysctl_file:
    description: File with the sysctls.
    type: path
    default: /etc/sysctl.d/90-fairlead.conf
  found_file:
    description: File with the values from before the first change.
    type: path
    default: /var/lib/fairlead/found/sysctls.json
  purpose:
    description:
      - Under which name the node remembers the settings. Each purpose has settings of its own, which need files of
        their own too.
    type: str
    choices: [node, services]
    default: node
  state:
    description: With V(absent) the three files are removed and all sysctls get the values from before.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: fairlead.cluster.managed_files
"""

EXAMPLES = r"""
- name: Let the node forward pod traffic
  fairlead.cluster.kernel_settings:
    modules: [br_netfilter, vxlan]
    sysctls:
      net.ipv4.ip_forward: 1
      net.bridge.bridge-nf-call-iptables: 1
    optional_sysctls:
      net.ipv4.neigh.default.gc_thresh3: 4096

# before: net.ipv4.ip_forward was 0
# operations:
#   - + file /etc/modules-load.d/fairlead.conf 0644 root:root 80 bytes sha256 ...
#   - + file /etc/sysctl.d/90-fairlead.conf 0644 root:root 150 bytes sha256 ...
#   - + file /var/lib/fairlead/found/sysctls.json 0600 root:root 34 bytes sha256 ...
#   - ~ sysctl net.ipv4.ip_forward = 1 (was sysctl net.ipv4.ip_forward = 0)
"""

RETURN = r"""
before:
  description: Modules, sysctls and files as found. Those not there are missing.
  returned: success
  type: list
  elements: dict
  sample:
    - {kind: sysctl, name: net.ipv4.ip_forward, value: "0"}
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
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {after: {sysctl: 20}, operations: {sysctl: 20}}
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import store
from ..module_utils._desired.kernel_settings import converge
from ..module_utils._engine import together
from ..module_utils._system.runner import module_runner

KINDS = {"node": "kernel_settings", "services": "services_kernel"}
DECLARED = {
    "modules": {"type": "list", "elements": "str", "default": []},
    "sysctls": {"type": "dict", "default": {}},
    "optional_sysctls": {"type": "dict", "default": {}},
}
FILES = {
    "modules_file": {"type": "path", "default": "/etc/modules-load.d/fairlead.conf"},
    "sysctl_file": {"type": "path", "default": "/etc/sysctl.d/90-fairlead.conf"},
    "found_file": {"type": "path", "default": "/var/lib/fairlead/found/sysctls.json"},
}
STATE = {
    "purpose": {"type": "str", "choices": ["node", "services"], "default": "node"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    wanted = module.params["state"] == "present"
    names = [*FILES, *(DECLARED if wanted else ())]
    document = {name: module.params[name] for name in names}
    kind = KINDS[module.params["purpose"]]
    with store.alone(kind, wanted, module.check_mode):
        outcome = converge(document, module.check_mode, module_runner(module))
        remembered = store.remember(kind, document if wanted else None, module.check_mode)
    return result_of(module, together(outcome, remembered), "kernel settings")


def main() -> None:
    run(AnsibleModule({**DECLARED, **FILES, **STATE}, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
