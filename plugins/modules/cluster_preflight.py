# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module cluster_preflight: refuses a declared cluster that cannot work, before anything is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_preflight
short_description: Check a declared cluster before anything is touched
description:
  - Checks what an inventory declares, finds all problems at once and fails with one message that names each item, the
    file and line it is declared in, and what to do.
  - Runs on the controller, reads nothing but its parameters and changes nothing.
  - Checks names, addresses and groups; that pod and service network are valid, share no address with each other and
    hold no node's address; that every node can get a subnet; in a dual-stack cluster the same for IPv6; types, choices
    and ranges of the variables of all roles; that nodes agree where they must; and that no variable is misspelt.
version_added: 0.1.0
author: the Fairlead authors (@fairlead)
extends_documentation_fragment: fairlead.cluster.attributes.info
options:
  declaration:
    description: What is declared, as filter P(fairlead.cluster.cluster_declaration#filter) collects it.
    type: dict
    required: true
    suboptions:
      groups:
        description:
          - Every group of the inventory with the names of its hosts, V(all) included.
          - V(etcd), V(control_plane), V(worker) and V(nodes) have the meaning of the playbooks.
        type: dict
        required: true
      settings:
        description: Declared variables.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: Name of the variable.
            type: str
            required: true
          value:
            description: Its value.
            type: raw
          hosts:
            description: The hosts it is declared for; all of them when not given.
            type: list
            elements: str
          where:
            description: File and line of the declaration, for messages.
            type: str
          unresolved:
            description: Why there is no value yet, for example because it is computed from facts.
            type: str
      options:
        description: Variables that the roles know, by name, each with O(declaration.options.type) and its choices.
        type: dict
        required: true
      prefixes:
        description: Beginnings of variable names that belong to the roles.
        type: list
        elements: str
        required: true
seealso:
  - plugin: fairlead.cluster.cluster_declaration
    plugin_type: filter
    description: Collects O(declaration).
"""

EXAMPLES = r"""
- name: Refuse a cluster that cannot work
  hosts: all
  gather_facts: false
  tasks:
    - name: Check the declared cluster
      fairlead.cluster.cluster_preflight:
        declaration: "{{ groups | fairlead.cluster.cluster_declaration(hostvars) }}"
      delegate_to: localhost
      run_once: true

# With cluster_pod_cidr: 10.0.0.0/8 and flannel_vni: 7 in group_vars/all/cluster.yml it fails with
#
# The declared cluster has 2 problems, and nothing was touched:
# - flannel_vni (group_vars/all/cluster.yml:5): is not a variable of any role; did you mean flannel_vxlan_vni?
# - cluster_service_cidr (group_vars/all/cluster.yml:3): 10.96.0.0/12 overlaps cluster_pod_cidr 10.0.0.0/8; choose
#   networks that share no address
"""

RETURN = r"""
msg:
  description: The cluster in one line, or on failure every problem.
  returned: always
  type: str
  sample: 4 nodes, etcd stacked on 3 members, 255 subnets for pods
problems:
  description: What forbids to go on.
  returned: failure
  type: list
  elements: dict
  contains:
    path:
      description: The item.
      type: str
      sample: hosts.w1.ansible_host
    where:
      description: File and line of its declaration, empty when not known.
      type: str
      sample: inventories/lab/hosts.yml:12
    text:
      description: What is wrong and what to do.
      type: str
topology:
  description: Where etcd lives, V(single), V(stacked), V(external) or V(mixed).
  returned: success
  type: str
  sample: stacked
subnets:
  description: How many nodes can get a pod subnet, or one of each family.
  returned: success
  type: int
  sample: 255
"""

import dataclasses
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import run
from ..module_utils._model.cluster import ETCD, NODES, Report, check_cluster
from ..module_utils._model.declared import Problem

SETTING = {
    "name": {"type": "str", "required": True},
    "value": {"type": "raw"},
    "hosts": {"type": "list", "elements": "str"},
    "where": {"type": "str"},
    "unresolved": {"type": "str"},
}
DECLARATION = {
    "groups": {"type": "dict", "required": True},
    "settings": {"type": "list", "elements": "dict", "required": True, "options": SETTING},
    "options": {"type": "dict", "required": True},
    "prefixes": {"type": "list", "elements": "str", "required": True},
}


def preflight(module: AnsibleModule) -> Dict[str, Any]:
    declaration = module.params["declaration"]
    report = check_cluster(declaration)
    for warning in report.warnings:
        module.warn(str(warning))
    if report.errors:
        problems = [dataclasses.asdict(problem) for problem in report.errors]
        module.fail_json(msg=failure(report.errors), problems=problems)
    return {
        "changed": False,
        "msg": summary(report, declaration["groups"]),
        "topology": report.topology,
        "subnets": report.subnets,
    }


def failure(errors: List[Problem]) -> str:
    count = "a problem" if len(errors) == 1 else f"{len(errors)} problems"
    lines = [f"- {error}" for error in errors]
    return "\n".join([f"The declared cluster has {count}, and nothing was touched:", *lines])


def summary(report: Report, groups: Dict[str, List[str]]) -> str:
    nodes, members = len(groups[NODES]), len(groups[ETCD])
    return (
        f"{nodes} node{'s' * (nodes != 1)}, etcd {report.topology} on {members} member{'s' * (members != 1)}, "
        f"{report.subnets} subnets for pods"
    )


def main() -> None:
    spec = {"declaration": {"type": "dict", "required": True, "options": DECLARATION}}
    # The whole inventory is no use in the controller's log.
    run(AnsibleModule(spec, supports_check_mode=True, no_log=True), preflight)


if __name__ == "__main__":
    main()
