#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Subnet leases of the overlay in etcd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_lease
short_description: Subnet leases of the overlay's nodes in etcd
version_added: 0.1.0
author: the Fairlead authors
description:
  - Keeps flannel's network configuration and one subnet lease for each declared node in etcd, with keys and values
    exactly as flannel writes them, so that a real flanneld is a full peer.
  - One call on any node serves all nodes. The leases of nodes that are down are there before they come up, and nodes
    that make the same call at the same time give out the same subnets without getting in each other's way.
  - A node keeps the lease that has its MAC address, or else its address, as long as the configuration allows that
    subnet. A new lease gets the first free subnet in the order of O(nodes).
  - With O(config.network6) each lease has an IPv4 and an IPv6 half. Nodes keep their IPv4 subnets when that option
    comes or goes; each lease moves to its other key in one transaction. A running flanneld with a configuration of IPv4
    alone ends when it is told of a dual-stack lease (flannel 0.28), and goes on when it is started again.
  - Leases of peers that are not in O(nodes), such as nodes that run flanneld, are never touched. Those among them that
    no datapath can be made from (no valid MAC address, a subnet outside of the network, a second lease of one address,
    MAC address or overlapping subnet) are left out of the peers with a warning, or only their IPv6 half where the other
    one is well. A node that runs flanneld must not be in O(nodes), because flanneld chooses its MAC address itself.
  - Etcd is reached through its JSON gateway, version 3.4 or newer.
extends_documentation_fragment: [fairlead.cluster.attributes, fairlead.cluster.lease.config]
attributes:
  check_mode:
    description:
      - Reads and plans exactly as in a real run, and changes nothing.
      - Where no endpoint answers, as before the first run, it predicts from the declared data alone and warns.
    support: full
options:
  state:
    description:
      - V(present) ensures the configuration and the leases of all O(nodes).
      - V(absent) takes away the lease of O(node), so that peers stop sending to it at once.
      - V(gathered) only reads, and asks for the remaining time of every lease.
    type: str
    choices: [present, absent, gathered]
    default: present
  endpoints:
    description: Client URLs of etcd, tried in this order until one answers.
    type: list
    elements: str
    required: true
  ca_file:
    description: CA certificate that the servers are checked against. Default is the system's store.
    type: path
  cert_file:
    description: Client certificate. Needs O(key_file).
    type: path
  key_file:
    description: Key of the client certificate.
    type: path
  username:
    description: User of etcd, where it has authentication enabled. Needs O(password).
    type: str
  password:
    description:
      - Password of O(username). Where etcd has authentication enabled without TLS, it travels in the clear.
      - It is kept on the node, readable for root only, so that the lease can be renewed.
    type: str
  timeout:
    description: Seconds to wait for one answer of one endpoint.
    type: int
    default: 5
  prefix:
    description: Key prefix of the configuration and the leases.
    type: str
    default: /coreos.com/network
  cluster_name:
    description: Name of the cluster. MAC addresses are derived from it and the node's name. Required with O(nodes).
    type: str
  nodes:
    description: All declared members of the overlay, in a stable order. Required unless O(state=gathered).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      address:
        description: IPv4 address of the node on the underlay.
        type: str
        required: true
      mac:
        description:
          - MAC address of its VXLAN device, by which its lease is known with V(vxlan).
          - Default is derived from O(cluster_name) and the name.
        type: str
      subnet:
        description: The subnet that it must have. Default is the one it has, or the first free one.
        type: str
      address6:
        description: IPv6 address of the node on the underlay. Required with O(config.network6), of no use without.
        type: str
      mac6:
        description: The same as O(nodes[].mac) for its VXLAN device for IPv6. The two must differ.
        type: str
      subnet6:
        description: The same as O(nodes[].subnet) for IPv6.
        type: str
      public_key:
        description:
          - WireGuard's public key of the node, from M(fairlead.cluster.wireguard_key), by which its lease is known with
            V(wireguard). Required for O(node). Others without one get no lease yet, or keep what they have.
        type: str
  node:
    description: Name of the node whose lease is kept alive by this call. Required unless O(state=gathered).
    type: str
  ttl:
    description:
      - Seconds that a lease lives without renewal, at least 14400; flannel's is 86400. V(0) makes leases permanent.
      - The lease of O(node) is renewed when less than half of that is left. Those of others are left to them.
    type: int
    default: 86400
"""

EXAMPLES = r"""
- name: Take the subnets of all nodes
  fairlead.cluster.overlay_lease:
    endpoints: ["https://192.0.2.11:2379", "https://192.0.2.12:2379"]
    ca_file: /etc/fairlead/pki/etcd-ca.crt
    cert_file: /etc/fairlead/pki/etcd-client.crt
    key_file: /etc/fairlead/pki/etcd-client.key
    config:
      network: 10.244.0.0/16
      network6: fd00:10:244::/48
      backend: {type: vxlan, vni: 1, port: 8472}
    cluster_name: lab
    nodes:
      - {name: cp1, address: 192.0.2.11, address6: "2001:db8::11"}
      - {name: w1, address: 192.0.2.14, address6: "2001:db8::14"}
    node: w1
  register: lease

- name: Show who has which subnet
  fairlead.cluster.overlay_lease:
    state: gathered
    endpoints: ["https://192.0.2.11:2379"]
    ca_file: /etc/fairlead/pki/etcd-ca.crt
    cert_file: /etc/fairlead/pki/etcd-client.crt
    key_file: /etc/fairlead/pki/etcd-client.key
"""

RETURN = r"""
leases:
  description: All leases of the configured backend by rising subnet, those of undeclared peers too. With
    O(state=present) without undeclared ones that are of no use, with O(state=gathered) of all backends.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the declared node; null for others., type: str}
    subnet: {description: The subnet., type: str}
    address: {description: Address of the node on the underlay., type: str}
    mac: {description: "MAC address of its VXLAN device, empty with another backend.", type: str}
    public_key: {description: "WireGuard's public key instead of C(mac), for IPv6 C(public_key6).", type: str}
    listen_port: {description: "Its UDP port, 0 where the lease does not tell, for IPv6 C(listen_port6).", type: int}
    subnet6: {description: "The IPv6 subnet. This and the next two are absent without an IPv6 half.", type: str}
    address6: {description: IPv6 address of the node on the underlay., type: str}
    mac6: {description: "MAC address of its VXLAN device for IPv6, empty with another backend.", type: str}
    backend_type: {description: The backend., type: str}
    ttl: {description: "Seconds left; 0 for a permanent lease, null where it was not asked for.", type: int}
  sample:
    - {name: w1, subnet: 10.244.1.0/24, address: 192.0.2.14, mac: "66:3b:ef:92:63:92", backend_type: vxlan, ttl: 86399}
own:
  description: The entry of RV(leases) that is O(node)'s.
  returned: when O(state=present)
  type: dict
peers:
  description: The other entries of RV(leases).
  returned: when O(state=present)
  type: list
  elements: dict
orphaned:
  description: Leases of no declared node, which are of nodes that are gone, or of peers that run flanneld. Of removed
    nodes they may be deleted; nothing here does. Empty with O(state=gathered) without O(nodes).
  returned: when O(state) is not V(absent)
  type: list
  elements: dict
  contains:
    key: {description: Its key in etcd., type: str}
    address: {description: Address of the node on the underlay., type: str}
    ttl:
      description: "Seconds left; 0 for a permanent one, null where it was not asked for, which is so for many of them."
      type: int
conflicts:
  description: What is wrong with leases that nobody here may change; each is also a warning, unless there are many.
    One underlay or MAC address in several leases, subnets of either IP version that overlap, that the configuration
    does not allow, or that are missing, or values that cannot be read.
  returned: when O(state) is not V(absent)
  type: list
  elements: dict
  contains:
    keys: {description: The leases' keys in etcd., type: list, elements: str}
    problem: {description: What is wrong., type: str}
    advice: {description: What to do., type: str}
before:
  description: Configuration and leases as found.
  returned: when O(state) is not V(gathered)
  type: list
  elements: dict
after:
  description: Configuration and leases as they are now (check mode would be). Same shape as RV(before).
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
  sample: {before: {lease: 4900}, after: {lease: 4900}}
"""

import dataclasses
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._desired import overlay_lease, store
from ..module_utils._engine import together

BACKEND_SPEC = {
    "type": {"type": "str", "choices": ["vxlan", "host-gw", "ipip", "wireguard"], "required": True},
    "vni": {"type": "int"},
    "port": {"type": "int"},
    "mtu": {"type": "int"},
    "gbp": {"type": "bool"},
    "learning": {"type": "bool"},
    "direct_routing": {"type": "bool"},
    "psk": {"type": "str", "no_log": True},
    "listen_port": {"type": "int"},
    "listen_port6": {"type": "int"},
    "keepalive": {"type": "int"},
    "mode": {"type": "str", "choices": ["separate", "auto", "ipv4", "ipv6"]},
}
CONFIG_SPEC = {
    "network": {"type": "str"},
    "subnet_len": {"type": "int"},
    "subnet_min": {"type": "str"},
    "subnet_max": {"type": "str"},
    "network6": {"type": "str"},
    "subnet6_len": {"type": "int"},
    "subnet6_min": {"type": "str"},
    "subnet6_max": {"type": "str"},
    "backend": {"type": "dict", "required": True, "options": BACKEND_SPEC},
}
NODE_SPEC = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "mac": {"type": "str"},
    "subnet": {"type": "str"},
    "address6": {"type": "str"},
    "mac6": {"type": "str"},
    "subnet6": {"type": "str"},
    "public_key": {"type": "str"},
}
ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent", "gathered"], "default": "present"},
    "endpoints": {"type": "list", "elements": "str", "required": True},
    "ca_file": {"type": "path"},
    "cert_file": {"type": "path"},
    "key_file": {"type": "path", "no_log": False},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "timeout": {"type": "int", "default": 5},
    "prefix": {"type": "str", "default": "/coreos.com/network"},
    "config": {"type": "dict", "options": CONFIG_SPEC},
    "cluster_name": {"type": "str"},
    "nodes": {"type": "list", "elements": "dict", "options": NODE_SPEC},
    "node": {"type": "str"},
    "ttl": {"type": "int", "default": 86400},
}
NEEDED = ["config", "cluster_name", "nodes", "node"]
HEADER = "leases in etcd"


def body(module: AnsibleModule) -> Dict[str, Any]:
    document = _document(module.params)
    if module.params["state"] == "gathered":
        return {"changed": False, **dataclasses.asdict(overlay_lease.gather(document))}
    if module.params["state"] == "absent":
        outcome = overlay_lease.release(document, module.check_mode)
        forgotten = store.forget(overlay_lease.KIND, module.check_mode)
        return result_of(module, together(outcome, forgotten), HEADER)
    ensured = overlay_lease.ensure(document, module.check_mode)
    for warning in ensured.warnings:
        module.warn(warning)
    saved = store.save(overlay_lease.KIND, overlay_lease.remembered(document, ensured), module.check_mode)
    own = module.params["node"]
    return {
        **result_of(module, together(ensured.outcome, saved), HEADER),
        "leases": ensured.leases,
        "own": next(lease for lease in ensured.leases if lease["name"] == own),
        "peers": [lease for lease in ensured.leases if lease["name"] != own],
        "orphaned": ensured.orphaned,
        "conflicts": ensured.conflicts,
    }


def _document(params: Dict[str, Any]) -> Dict[str, Any]:
    """The parameters without those that were not given, so that the saved document says only what was declared."""
    return {key: _given(value) for key, value in params.items() if key != "state" and value is not None}


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(entry) for key, entry in value.items() if entry is not None}
    return [_given(entry) for entry in value] if isinstance(value, list) else value


def main() -> None:
    module = AnsibleModule(
        ARGUMENT_SPEC,
        supports_check_mode=True,
        required_if=[("state", "present", NEEDED), ("state", "absent", NEEDED)],
        required_by={"cert_file": ["key_file"], "nodes": ["cluster_name"], "password": ["username"]},
    )
    run(module, body)


if __name__ == "__main__":
    main()
