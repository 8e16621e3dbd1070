#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The file by which container runtimes learn of a CNI network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cni_network
short_description: Write the configuration of a CNI network
version_added: 0.1.0
author: the Fairlead authors
description:
  - Writes a configuration list of the CNI specification and, unless told otherwise, one for the loopback network.
  - Everything is validated before the first change. Options of the plugins C(bridge), C(host-local), C(portmap) and
    C(loopback) are known in full, and unknown, contradicting or impossible ones are refused with their path, for
    example C(plugins[0].ipam.ranges[0][0].subnet). Options of other plugins are passed on as they are.
  - Each plugin program named must be in one of O(plugin_dirs) and must say that it supports O(cni_version). In check
    mode this is only a warning, because an earlier task that was not carried out may bring the programs.
  - Warns when the directory holds a configuration that runtimes would take before this one.
  - The node remembers the networks; C(fairlead verify) on the node tells when something else changed the files.
extends_documentation_fragment: fairlead.cluster.attributes
options:
  path:
    description:
      - File of the network. Runtimes take the first file of the directory in the order of names, and expect the ending
        C(.conflist).
    type: path
    default: /etc/cni/net.d/10-fairlead.conflist
  name:
    description:
      - Name of the network. Plugins derive from it where they keep addresses and how they name chains, so a new name
        is a new network to them.
    type: str
    default: fairlead
  cni_version:
    description: Version of the CNI specification that the file follows.
    type: str
    choices: ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    default: "1.0.0"
  disable_check:
    description: Whether runtimes are told never to run CHECK on this network.
    type: bool
    default: false
  plugins:
    description:
      - The plugins in the order of ADD, in the words of the CNI specification.
      - With O(state=present), exactly one of O(plugins) and O(bridge) is required.
      - Give routes of C(host-local) their C(gw). The CHECK of C(bridge) does not find routes configured without it.
    type: list
    elements: dict
  bridge:
    description:
      - Short form for the node of an overlay. A bridge that is the pods' gateway, addresses from the node's own subnet
        by C(host-local), and C(portmap) behind it.
    type: dict
    suboptions:
      name:
        description: Name of the bridge, 1 to 15 characters.
        type: str
        default: cni0
      subnets:
        description: The node's pod subnet, or one of each address family, without host bits.
        type: list
        elements: str
        required: true
      routes:
        description: Networks that pods reach through the bridge, as a rule the pod network of the cluster.
        type: list
        elements: str
        default: []
      mtu:
        description:
          - MTU of the bridge and of the pods' interfaces in bytes, 68 to 65535. On an overlay it has to be that of the
            overlay's device. V(0) leaves it to the kernel.
        type: int
        default: 0
      hairpin:
        description: Whether a pod may reach itself through a service or a mapped port.
        type: bool
        default: true
      default_gateway:
        description: Whether pods get a default route by the bridge.
        type: bool
        default: true
      masquerade:
        description:
          - Whether the plugin masquerades pod traffic. Leave it off where something else does, such as
            M(fairlead.cluster.masquerade), which spares traffic between pods.
        type: bool
        default: false
      portmap:
        description: Whether ports of the node can be mapped to pods.
        type: bool
        default: true
  loopback:
    description:
      - Whether F(99-loopback.conflist) is kept in the same directory. With O(state=absent) it is removed when it says
        what this module writes.
    type: bool
    default: true
  plugin_dirs:
    description: Directories with the plugin programs. The first one that has a program wins.
    type: list
    elements: path
    default: [/usr/lib/cni, /opt/cni/bin]
  detach:
    description:
      - Whether O(state=absent) detaches what is still attached, and takes addresses that nobody gave back as free.
    type: bool
    default: false
  cache_dir:
    description: Directory in which runtimes keep results of ADD, in C(results). They tell what is attached.
    type: path
    default: /var/lib/cni
  state:
    description:
      - Whether the network shall be configured. Pods that are attached already are not touched.
      - With V(absent), the bridge and the bookkeeping of C(host-local) go as well. A network that is in use is refused
        unless O(detach) is set. A bridge that others put interfaces into stays.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: fairlead.cluster.cni_attachment
  - name: CNI specification
    description: What the words of O(plugins) mean.
    link: https://www.cni.dev/docs/spec/
"""

EXAMPLES = r"""
- name: Pods of this node get addresses of 10.244.1.0/24
  fairlead.cluster.cni_network:
    bridge:
      subnets: [10.244.1.0/24]
      routes: [10.244.0.0/16]
      mtu: 1450

- name: The same network with a limit to its bandwidth, in the words of the specification
  fairlead.cluster.cni_network:
    name: limited
    path: /etc/cni/net.d/20-limited.conflist
    plugins:
      - type: bridge
        bridge: cni1
        isGateway: true
        ipam:
          type: host-local
          ranges: [[{subnet: 10.245.1.0/24}]]
      - type: bandwidth
        capabilities: {bandwidth: true}
"""

RETURN = r"""
before:
  description:
    - The files as found, each with path, content, mode, owner and group. With O(state=absent) also what is
      attached, the bridge and the bookkeeping of addresses.
  returned: success
  type: list
  elements: dict
after:
  description: The files as they are now (check mode would be). Same shape as RV(before).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each file written or removed.
  returned: success
  type: list
  elements: str
  sample: ["+ file /etc/cni/net.d/10-fairlead.conflist 0644 root:root 590 bytes sha256 52d1a3b4c5d6"]
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {after: {file: 20}}
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import store
from ..module_utils._desired.cni_network import KIND, converge, merged, plugin_problems, shadows
from ..module_utils._engine import together
from ..module_utils._model.cni import CNI_VERSIONS
from ..module_utils._model.files import File
from ..module_utils._system.runner import module_runner

if TYPE_CHECKING:
    from ..module_utils._engine import Outcome
    from ..module_utils._model.item import Item

BRIDGE_SPEC = {
    "name": {"type": "str", "default": "cni0"},
    "subnets": {"type": "list", "elements": "str", "required": True},
    "routes": {"type": "list", "elements": "str", "default": []},
    "mtu": {"type": "int", "default": 0},
    "hairpin": {"type": "bool", "default": True},
    "default_gateway": {"type": "bool", "default": True},
    "masquerade": {"type": "bool", "default": False},
    "portmap": {"type": "bool", "default": True},
}
ARGUMENT_SPEC = {
    "path": {"type": "path", "default": "/etc/cni/net.d/10-fairlead.conflist"},
    "name": {"type": "str", "default": "fairlead"},
    "cni_version": {"type": "str", "choices": list(CNI_VERSIONS), "default": "1.0.0"},
    "disable_check": {"type": "bool", "default": False},
    "plugins": {"type": "list", "elements": "dict"},
    "bridge": {"type": "dict", "options": BRIDGE_SPEC},
    "loopback": {"type": "bool", "default": True},
    "plugin_dirs": {"type": "list", "elements": "path", "default": ["/usr/lib/cni", "/opt/cni/bin"]},
    "detach": {"type": "bool", "default": False},
    "cache_dir": {"type": "path", "default": "/var/lib/cni"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    document = {"networks": [dict(module.params)]}
    runner = module_runner(module)
    outcome = converge(document, module.check_mode, runner)
    if module.check_mode:
        for problem in plugin_problems(document, runner):
            module.warn(f"{problem}; without check mode this would be refused unless an earlier task brings it")
    if module.params["state"] == "present":
        for other in shadows(module.params["path"]):
            module.warn(f"{other}: runtimes take this network first, because its file name comes before ours")
    result = result_of(module, together(outcome, _remember(module, document)), "CNI network")
    if module._diff:
        result["diff"] = _diffs(outcome)
    return result


def _diffs(outcome: Outcome) -> List[Dict[str, str]]:
    """Contents of files, which tell more than their digests; other things by their name."""
    diffs = []
    for key in sorted({operation.item.key for operation in outcome.operations}, key=str):
        before, after = (_shown(state.get(key)) for state in (outcome.before, outcome.after))
        name = str(key[-1])
        diffs.append({"before_header": name, "after_header": name, "before": before, "after": after})
    return diffs


def _shown(item: Optional[Item]) -> str:
    if isinstance(item, File):
        return item.content
    return "" if item is None else f"{item}\n"


def _remember(module: AnsibleModule, document: Dict[str, Any]) -> Outcome:
    wanted = merged(store.load(KIND), document)
    return store.remember(KIND, wanted if wanted["networks"] else None, module.check_mode)


def main() -> None:
    module = AnsibleModule(
        ARGUMENT_SPEC,
        mutually_exclusive=[("plugins", "bridge")],
        required_if=[("state", "present", ("plugins", "bridge"), True)],
        supports_check_mode=True,
    )
    run(module, body)


if __name__ == "__main__":
    main()
