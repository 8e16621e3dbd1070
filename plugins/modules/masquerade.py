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
  - IPv4, IPv6 or both. The rules are the same for each, and one backend holds both.
  - With nftables, the rules are in chains C(postrouting) and C(forward) of tables C(ip fairlead) and C(ip6 fairlead),
    which belong to this module alone. With iptables and ip6tables, they are in chain C(FAIRLEAD-POSTRTG) of table nat
    and C(FAIRLEAD-FWD) of table filter, each with one jump at the end of C(POSTROUTING) and C(FORWARD), or before the
    rule of C(FORWARD) that drops everything. All other rules stay as they are.
  - The rules of a table are replaced at once, those of nftables for both IP versions together, and only when they
    differ. A jump that is there stays where it is.
  - Rules in the backend that is not used any more are removed after those of the new one are in force, so that no
    packet meets none.
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
      - O(network) or O(network6) is required with O(state=present). The rules of one that is left out are removed.
    type: str
  subnet:
    description: Network of the pods on this node, inside O(network) and required with it.
    type: str
  network6:
    description: IPv6 network of all pods, such as V(fd00:10:244::/48). Takes C(ip6tables) where iptables is used.
    type: str
  subnet6:
    description: IPv6 network of the pods on this node, inside O(network6) and required with it.
    type: str
  backend:
    description:
      - What holds the rules.
      - V(auto) takes iptables, of the kind in question, where its chain C(FORWARD) of a declared IP version drops
        packets (as Docker and ufw have it by policy) or holds rules of others. When such rules come later, the next run
        moves ours there. Of two kinds that drop, it takes the one that does so for more IP versions, and warns of the
        other.
      - Otherwise V(auto) stays with the backend that has the rules already, or had them last. On a new node it takes
        nftables if the command C(nft) is there and the kernel has NAT tables of nftables for what is declared, and else
        iptables.
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
    network6: fd00:10:244::/48
    subnet6: fd00:10:244:1::/64

# before: no rules
# operations:
#   - + nftables ip fairlead chain forward hook forward, policy accept, prio 0, type filter
#   - + nftables ip fairlead chain postrouting hook postrouting, policy accept, prio 100, type nat
#   - + nftables ip fairlead table
#   - + nftables ip6 fairlead chain forward hook forward, policy accept, prio 0, type filter
#   - ...
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
  sample: "only rules there let pods through chain FORWARD: its policy is DROP (IPv4)"
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
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {before: {filter_rule: 20}}
"""

from typing import TYPE_CHECKING, Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import store
from ..module_utils._desired.masquerade import KIND, converge_and_explain
from ..module_utils._engine import together
from ..module_utils._system.lock import exclusive
from ..module_utils._system.runner import module_runner

if TYPE_CHECKING:
    from ..module_utils._engine import Outcome

ARGUMENTS = {
    "network": {"type": "str"},
    "subnet": {"type": "str"},
    "network6": {"type": "str"},
    "subnet6": {"type": "str"},
    "backend": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "masquerade": {"type": "bool", "default": True},
    "forward": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
REQUIRED = [("state", "present", ("network", "network6"), True)]
TOGETHER = [("network", "subnet"), ("network6", "subnet6")]


def body(module: AnsibleModule) -> Dict[str, Any]:
    with exclusive(KIND, module.check_mode):
        return _converged(module)


def _converged(module: AnsibleModule) -> Dict[str, Any]:
    document = {name: module.params[name] for name in ARGUMENTS}
    runner = module_runner(module)
    if document["state"] == "absent":
        outcome, _choice = converge_and_explain(document, module.check_mode, runner)
        return _result(module, together(outcome, store.forget(KIND, module.check_mode)))
    document["remembered"] = str((store.recall(KIND) or {}).get("remembered") or "")
    outcome, choice = converge_and_explain(document, module.check_mode, runner)
    explained = {}
    if choice is not None:
        for warning in choice.warnings:
            module.warn(warning)
        document["remembered"] = choice.backend
        explained = {"backend": choice.backend, "reason": choice.reason}
    return {**_result(module, together(outcome, store.save(KIND, document, module.check_mode))), **explained}


def _result(module: AnsibleModule, outcome: Outcome) -> Dict[str, Any]:
    return result_of(module, outcome, "masquerade and forward rules")


def main() -> None:
    run(AnsibleModule(ARGUMENTS, required_if=REQUIRED, required_together=TOGETHER, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
