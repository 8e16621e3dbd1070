#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The etcd member on a node, and what its cluster says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member
short_description: Start, restart, wait for and look at members of etcd
version_added: 0.1.0
author: the Fairlead authors
description:
  - Handles the service of an etcd member whose unit and environment file role P(fairlead.cluster.etcd#role) has
    written, and asks the cluster about its members through the JSON gateway, version 3.4 or newer.
  - A member starts on an empty data directory only when it has never existed. When it has, by what this node remembers
    or by what the other members say, the start is refused, because it would found a second cluster or bring a member
    without its log into the old one. It is refused too when somebody answers in the others' place who cannot be
    understood, as with a certificate of another authority. Data of an etcd that was not started from here is not
    taken over.
  - A running member is stopped for a restart only while the cluster can spare it.
extends_documentation_fragment: fairlead.cluster.attributes
attributes:
  check_mode:
    description:
      - Reads and plans exactly as in a real run, and changes nothing. Does not wait for a member that does not run.
    support: full
options:
  state:
    description:
      - V(started) enables and starts the service and does not wait for it, so that members can start at the same time.
        A running member is left alone.
      - V(restarted) restarts a member that runs with an older configuration than the one in its file, when the cluster
        can spare it, and waits until it and all members that were healthy before are healthy. Otherwise does nothing.
      - V(healthy) waits until the member on this node is healthy and the members are those in O(members).
      - V(absent) stops and disables the service, removes its data and forgets the member, in this order, so that an
        interrupted run is finished by the next one. Data and service of an etcd that is not ours stay. Files of the
        installation are module M(fairlead.cluster.etcd_installation)'s.
      - V(gathered) only reads, on any host.
    type: str
    choices: [started, restarted, healthy, absent, gathered]
    default: gathered
  name:
    description: Name of the member on this node. Required for V(started), V(restarted) and V(healthy).
    type: str
  members:
    description: All members of the cluster. Required unless O(state=absent).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description: IP address under which it serves peers and clients.
        type: str
        required: true
  token:
    description: Token of the cluster. Required for V(started), V(restarted) and V(healthy).
    type: str
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  peer_port:
    description: Port for members among themselves.
    type: int
    default: 2380
  data_dir:
    description: Directory of the member's data.
    type: path
    default: /var/lib/etcd
  environment_file:
    description: File with the member's configuration.
    type: path
    default: /etc/etcd/etcd.env
  unit:
    description: Name of the unit.
    type: str
    default: etcd.service
  ca_file:
    description: CA certificate that the servers are checked against.
    type: path
  cert_file:
    description: Client certificate. Needs O(key_file).
    type: path
  key_file:
    description: Key of the client certificate.
    type: path
  username:
    description: User of etcd with role C(root), where authentication is enabled. Needs O(password).
    type: str
  password:
    description: Password of O(username).
    type: str
  timeout:
    description: Seconds to wait for one answer of one member.
    type: int
    default: 5
  wait:
    description: Seconds to wait for the cluster to become healthy, or able to spare the member.
    type: int
    default: 120
seealso:
  - module: fairlead.cluster.etcd_installation
  - module: fairlead.cluster.overlay_lease
"""

EXAMPLES = r"""
- name: Show the members
  fairlead.cluster.etcd_member:
    state: gathered
    members:
      - {name: cp1, address: 192.0.2.11}
      - {name: cp2, address: 192.0.2.12}
      - {name: cp3, address: 192.0.2.13}
    ca_file: /etc/fairlead/pki/etcd-ca.crt
    cert_file: /etc/fairlead/pki/etcd-client.crt
    key_file: /etc/fairlead/pki/etcd-client.key
  register: cluster
"""

RETURN = r"""
members:
  description: The members by name, as the cluster lists them, each asked for itself.
  returned: when O(state) is V(healthy) or V(gathered)
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str}
    id: {description: Its identifier in hexadecimal digits., type: str}
    peer_urls: {description: URLs for members., type: list, elements: str}
    client_urls: {description: URLs for clients; empty before its first start., type: list, elements: str}
    leader: {description: Whether it is the leader., type: bool}
    learner: {description: Whether it is a learner., type: bool}
    healthy: {description: Whether it says that it is., type: bool}
    version: {description: Version of the program; null when it does not answer., type: str}
    db_bytes: {description: Size of its database file; null when it does not answer., type: int}
    problem: {description: Why it is not healthy; null when it is., type: str}
leader:
  description: Name of the leader; null for none.
  returned: when O(state) is V(healthy) or V(gathered)
  type: str
data_dir:
  description: Directory in which there was data of the member, which is removed; null for none.
  returned: when O(state=absent)
  type: str
left:
  description: What is there and was left, because it is of an etcd that is not ours, namely unit and data.
  returned: when O(state=absent)
  type: list
  elements: str
stale:
  description: Whether the member runs with an older configuration, so that it needs O(state=restarted).
  returned: when O(state=started)
  type: bool
before:
  description: The service, and the files in which the module remembers the member, as found.
  returned: when O(state) is not V(gathered)
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: when O(state) is not V(gathered)
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: when O(state) is not V(gathered)
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {operations: {file: 20}}
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._etcd import member
from ..module_utils._etcd.cluster import access_to, gather
from ..module_utils._model.etcd import MemberStatus, parse_access, parse_members
from ..module_utils._system.runner import module_runner

MEMBER_SPEC = {"name": {"type": "str", "required": True}, "address": {"type": "str", "required": True}}
ARGUMENT_SPEC = {
    "state": {
        "type": "str",
        "choices": ["started", "restarted", "healthy", "absent", "gathered"],
        "default": "gathered",
    },
    "name": {"type": "str"},
    "members": {"type": "list", "elements": "dict", "options": MEMBER_SPEC},
    "token": {"type": "str", "no_log": False},
    "client_port": {"type": "int", "default": 2379},
    "peer_port": {"type": "int", "default": 2380},
    "data_dir": {"type": "path", "default": "/var/lib/etcd"},
    "environment_file": {"type": "path", "default": "/etc/etcd/etcd.env"},
    "unit": {"type": "str", "default": "etcd.service"},
    "ca_file": {"type": "path"},
    "cert_file": {"type": "path"},
    "key_file": {"type": "path", "no_log": False},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "timeout": {"type": "int", "default": 5},
    "wait": {"type": "int", "default": 120},
}
NEEDED = ["name", "members", "token"]
HEADER = "etcd member"


def body(module: AnsibleModule) -> Dict[str, Any]:
    state, params, check = module.params["state"], module.params, module.check_mode
    if state == "gathered":
        return {"changed": False, **_shown(_gathered(params))}
    runner = module_runner(module)
    if state == "started":
        started = member.start(params, check, runner)
        return {**result_of(module, started.outcome, HEADER), "stale": started.stale}
    if state == "restarted":
        return result_of(module, member.restart(params, check, runner), HEADER)
    if state == "absent":
        removed = member.remove(params, check, runner)
        return {**result_of(module, removed.outcome, HEADER), "data_dir": removed.data_dir, "left": removed.left}
    outcome, members = member.healthy(params, check, runner)
    return {**result_of(module, outcome, HEADER), **_shown(members)}


def _gathered(params: Dict[str, Any]) -> List[MemberStatus]:
    declared = parse_members(params)
    access = parse_access({**params, "endpoints": [entry.client_url for entry in declared]})
    return gather(access_to(access, declared))


def _shown(members: List[MemberStatus]) -> Dict[str, Any]:
    leader = next((entry.name for entry in members if entry.leader), None)
    return {"members": [entry.to_dict() for entry in members], "leader": leader}


def main() -> None:
    module = AnsibleModule(
        ARGUMENT_SPEC,
        supports_check_mode=True,
        required_if=[
            ("state", "started", NEEDED),
            ("state", "restarted", NEEDED),
            ("state", "healthy", NEEDED),
            ("state", "gathered", ["members"]),
        ],
        required_by={"password": ["username"]},
    )
    run(module, body)


if __name__ == "__main__":
    main()
