#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Attach a network namespace to a CNI network, as a container runtime does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cni_attachment
short_description: Attach a network namespace to a CNI network
version_added: 0.1.0
author: the Fairlead authors
description:
  - Runs the node's CNI plugins on a network namespace as a container runtime does, so that what is proven with it holds
    for pods. ADD in the order of the list, DEL in reverse, each plugin given what the CNI specification says.
  - The result of ADD is kept in the format and place of libcni, so that a runtime can detach what was attached here,
    and this module what a runtime attached.
  - An attachment whose kept result passes CHECK and whose network, namespace and O(capability_args) are as wanted is
    left alone. Otherwise it is detached with the configuration that it was made with, and attached anew.
  - A failing ADD is taken back by a DEL. What an interrupted run left (a reserved address, an interface) is found and
    taken back too.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  network:
    description: Name of the network, looked for in O(conf_dir), or the absolute path of its file.
    type: str
    default: fairlead
  container_id:
    description: Identity of the container to the plugins. Letters, digits, C(_), C(.) and C(-).
    type: str
    required: true
  netns:
    description:
      - Network namespace, by its name under F(/run/netns) or by absolute path.
      - With O(state=present), one given by name is made when it is missing, and then removed by O(state=absent).
    type: str
    required: true
  ifname:
    description: Name of the interface in the namespace, 1 to 15 characters.
    type: str
    default: eth0
  capability_args:
    description:
      - What a runtime passes to plugins that declare a capability, by the name of the capability.
      - C(portMappings) is a list of dictionaries with C(hostPort), C(containerPort), C(protocol) (V(tcp) unless given)
        and C(hostIP) (all addresses of the node unless given).
    type: dict
    default: {}
  conf_dir:
    description: Directory with the configurations of networks.
    type: path
    default: /etc/cni/net.d
  plugin_dirs:
    description: Directories with the plugin programs. The first one that has a program wins.
    type: list
    elements: path
    default: [/usr/lib/cni, /opt/cni/bin]
  cache_dir:
    description: Directory under which results are kept, in C(results).
    type: path
    default: /var/lib/cni
  state:
    description:
      - V(present) attaches, V(absent) detaches.
      - V(checked) changes nothing and fails unless the interface is attached and every plugin's CHECK is satisfied.
    type: str
    choices: [present, checked, absent]
    default: present
attributes:
  idempotent:
    support: partial
    details:
      - Where the network forbids CHECK (C(disableCheck)) or is of a version before 0.4.0, an attachment with a kept
        result counts as good.
seealso:
  - module: fairlead.cluster.cni_network
  - module: fairlead.cluster.reachability
"""

EXAMPLES = r"""
- name: Attach a namespace of its own, and map a port of the node to it
  fairlead.cluster.cni_attachment:
    container_id: probe-1
    netns: probe-1
    capability_args:
      portMappings:
        - {hostPort: 8080, containerPort: 80}
  register: probe

# probe.addresses: ["10.244.1.2/24"]

- name: Ask the plugins whether the attachment is still as they made it
  fairlead.cluster.cni_attachment:
    container_id: probe-1
    netns: probe-1
    state: checked

- name: Detach it and remove the namespace
  fairlead.cluster.cni_attachment:
    container_id: probe-1
    netns: probe-1
    state: absent
"""

RETURN = r"""
addresses:
  description: Addresses of the interface with their prefix length. Empty when it is not attached, or would be only now.
  returned: success
  type: list
  elements: str
  sample: [10.244.1.2/24]
interfaces:
  description: Interfaces that the plugins made or use, as in the result of the CNI specification.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: cni0, mac: "0a:58:0a:f4:01:01"}
    - {name: veth1f6a21c8, mac: "2a:9b:1b:0e:fd:11"}
    - {name: eth0, mac: "6e:0c:3a:5d:8a:f0", sandbox: /run/netns/probe-1}
result:
  description: The result of ADD as a whole. Empty when it is not attached.
  returned: success
  type: dict
before:
  description: Namespace and attachment as found.
  returned: success
  type: list
  elements: dict
after:
  description: Namespace and attachment as they are now (check mode would be). Same shape as RV(before).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: success
  type: list
  elements: str
  sample: ["+ network namespace probe-1", "+ attachment fairlead probe-1 eth0 in /run/netns/probe-1"]
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {operations: {cni_attachment: 20, network_namespace: 20}}
"""

import json
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired.cni_attachment import attachment_in, converge
from ..module_utils._model.cni_attachment import addresses_of
from ..module_utils._system.runner import module_runner

ARGUMENT_SPEC = {
    "network": {"type": "str", "default": "fairlead"},
    "container_id": {"type": "str", "required": True},
    "netns": {"type": "str", "required": True},
    "ifname": {"type": "str", "default": "eth0"},
    "capability_args": {"type": "dict", "default": {}},
    "conf_dir": {"type": "path", "default": "/etc/cni/net.d"},
    "plugin_dirs": {"type": "list", "elements": "path", "default": ["/usr/lib/cni", "/opt/cni/bin"]},
    "cache_dir": {"type": "path", "default": "/var/lib/cni"},
    "state": {"type": "str", "choices": ["present", "checked", "absent"], "default": "present"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    outcome = converge(dict(module.params), module.check_mode, module_runner(module))
    attachment = attachment_in(outcome.after)
    text = attachment.result if attachment is not None else ""
    result = json.loads(text) if text else {}
    return {
        **result_of(module, outcome, "CNI attachment"),
        "addresses": addresses_of(text),
        "interfaces": result.get("interfaces") or [],
        "result": result,
    }


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
