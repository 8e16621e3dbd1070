#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Masquerade and forward rules for pod traffic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: masquerade
short_description: Masquerade pod traffic that leaves the cluster, and let pod traffic be forwarded
version_added: 0.1.0
author: the Fairlead authors
description:
  - Keeps the rules that flannel sets on a node, under names of its own. Pods reach each other with their own addresses,
    and the outside with the address of their node. Packets that kube-proxy marked (0x4000) are left to kube-proxy.
  - With nftables, the rules are in chains C(postrouting) and C(forward) of table C(ip fairlead), which belongs to this
    module alone. With iptables, they are in chain C(FAIRLEAD-POSTRTG) of table nat and C(FAIRLEAD-FWD) of table filter,
    each with one jump at the end of C(POSTROUTING) and C(FORWARD), or before the rule of C(FORWARD) that drops
    everything. All other rules stay as they are.
  - The rules of a table are replaced at once, and only when they differ. A jump that is there stays where it is.
  - Rules in the backend that is not used any more are removed after those of the new one are in force.
  - The node remembers the declaration and restores the rules at boot; C(fairlead verify) on the node tells when
    something else changed them.
extends_documentation_fragment: fairlead.cluster.attributes
notes:
  - A packet is dropped when any chain drops it; one that accepts does not overrule another. Warns when a chain that is
    not in the chosen backend drops forwarded packets, be it of iptables or of nftables, and names it. Such a chain
    needs rules of its own for pods.
  - In check mode, a backend whose command is not installed yet counts as one that will work.
  - Whether iptables works is found out by listing its table nat, which makes the kernel set up that table, empty.
options:
  network:
    description:
      - IPv4 network of all pods, such as V(10.244.0.0/16).
      - Required with O(state=present).
    type: str
  subnet:
    description:
      - Network of the pods on this node, inside O(network).
      - Required with O(state=present).
    type: str
  backend:
    description:
      - What holds the rules.
      - V(auto) takes iptables, of the kind in question, where its chain C(FORWARD) drops packets (as Docker and ufw
        have it by policy) or holds rules of others. When such rules come later, the next run moves ours there; those in
        the old place go after the new ones are in force.
      - Otherwise V(auto) stays with the backend that has the rules already, or had them last. On a new node it takes
        nftables if the command C(nft) is there and the kernel has NAT tables of nftables for IPv4, and else iptables.
      - V(iptables) takes the first that works of the commands C(iptables) and C(iptables-legacy), where C(iptables) may
        be either kind.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  masquerade:
    description: Whether to have the masquerade rules.
    type: bool
    default: true
  forward:
    description: Whether to have the rules that accept forwarded pod traffic.
    type: bool
    default: true
  state:
    description: With V(absent), the rules are removed from all backends.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: fairlead.cluster.overlay_lease
  - module: fairlead.cluster.overlay_network
"""

EXAMPLES = r"""
- name: Masquerade and accept pod traffic
  fairlead.cluster.masquerade:
    network: 10.244.0.0/16
    subnet: 10.244.1.0/24

# before: no rules
# operations:
#   - + nftables ip fairlead chain forward hook forward, policy accept, prio 0, type filter
#   - + nftables ip fairlead chain postrouting hook postrouting, policy accept, prio 100, type nat
#   - + nftables ip fairlead table
#   - + nftables ip fairlead forward 1: ip saddr 10.244.0.0/16 accept comment "fairlead forward"
#   - ...

- name: Remove the rules
  fairlead.cluster.masquerade:
    state: absent
"""

RETURN = r"""
backend:
  description: What holds the rules, V(nftables), V(iptables-nft) or V(iptables-legacy).
  returned: when rules are wanted
  type: str
  sample: iptables-nft
reason:
  description: Why it is that one.
  returned: when rules are wanted
  type: str
  sample: "only rules there let pods through chain FORWARD: its policy is DROP"
before:
  description: Our chains and rules as found, in all backends.
  returned: success
  type: list
  elements: dict
  sample:
    - kind: filter_rule
      backend: nftables
      table: ip fairlead
      chain: forward
      position: 1
      rule: ip saddr 10.244.0.0/16 accept comment "fairlead forward"
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
"""

from typing import TYPE_CHECKING, Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import store
from ..module_utils._desired.masquerade import KIND, converge_and_explain
from ..module_utils._engine import together
from ..module_utils._model.errors import ReadError
from ..module_utils._system.runner import module_runner

if TYPE_CHECKING:
    from ..module_utils._engine import Outcome

ARGUMENTS = {
    "network": {"type": "str"},
    "subnet": {"type": "str"},
    "backend": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "masquerade": {"type": "bool", "default": True},
    "forward": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
REQUIRED = [("state", "present", ("network", "subnet"))]


def body(module: AnsibleModule) -> Dict[str, Any]:
    document = {name: module.params[name] for name in ARGUMENTS}
    runner = module_runner(module)
    if document["state"] == "absent":
        outcome, _choice = converge_and_explain(document, module.check_mode, runner)
        return _result(module, together(outcome, store.forget(KIND, module.check_mode)))
    document["remembered"] = _remembered()
    outcome, choice = converge_and_explain(document, module.check_mode, runner)
    explained = {}
    if choice is not None:
        for warning in choice.warnings:
            module.warn(warning)
        document["remembered"] = choice.backend
        explained = {"backend": choice.backend, "reason": choice.reason}
    return {**_result(module, together(outcome, store.save(KIND, document, module.check_mode))), **explained}


def _remembered() -> str:
    try:
        return str((store.load(KIND) or {}).get("remembered") or "")
    except ReadError:
        # It is written anew by this very run.
        return ""


def _result(module: AnsibleModule, outcome: Outcome) -> Dict[str, Any]:
    return result_of(module, outcome, "masquerade and forward rules")


def main() -> None:
    run(AnsibleModule(ARGUMENTS, required_if=REQUIRED, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
