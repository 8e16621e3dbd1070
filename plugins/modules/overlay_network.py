#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The flannel datapath of one node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: overlay_network
short_description: Keep the flannel datapath of this node
version_added: 0.1.0
author: the Fairlead authors
description:
  - Brings the backend's device, its address, and for each peer a route, with V(vxlan) a neighbor and a forwarding
    entry, with V(wireguard) a peer of the device and one route for all, to exactly what flannel's backend of that name
    makes, so that nodes with a real flanneld are full peers.
  - Reads the kernel, sends only what differs, reads again to verify, and takes everything back when a step fails.
    Additions go from device to route, removals from route to device, so that no other peer loses a packet.
  - MTU and learning change in place, and everything of a WireGuard device. Any other device that differs in anything
    else (underlying interface, addresses, port, group policy, MAC address) is made anew with all that hangs on it.
  - When O(backend) changes, and when direct routing is switched, what carries the new way is built first, each route is
    replaced in one step, and what carried the old way is removed last. Direct routing comes and goes without losing a
    packet. Another backend does so too when all nodes have direct routing, or V(host-gw), before and after; otherwise
    peers that have not changed yet are cut off until they do.
  - The device is ours alone. Routes, permanent neighbors, permanent forwarding entries on it that no peer explains, and
    other addresses in O(network), are removed. Entries of the kernel itself stay, and so do addresses outside of
    O(network). Other devices are never touched, with one exception as in flannel, namely that a route in the main table
    to a peer's very subnet without a metric is replaced, wherever it goes. On the underlay's interface only routes and
    nexthop objects of peers are made, and later removed as the kept document names them.
  - An interface of the device's name and of another kind is refused with V(overridden) and left alone with
    V(deleted). A connected network of the node that equals a peer's subnet is refused.
  - The document is kept on the node and applied again at boot. What it made and the new one does not is removed.
extends_documentation_fragment:
  - fairlead.cluster.attributes
  - fairlead.cluster.overlay.backend
  - fairlead.cluster.overlay.members
  - fairlead.cluster.overlay.underlay
requirements:
  - pyroute2 >= 0.9.7 on the node, which role fairlead.cluster.node brings
options:
  state:
    description:
      - V(overridden) makes exactly what is declared.
      - V(merged) and V(replaced) also keep the peers of the document kept on this node, but for those whose name or
        subnet a declared peer has. Since a peer is declared whole, the two are the same.
      - V(rendered) returns the commands of C(ip), C(bridge) and C(wg) that would make the datapath on a node with
        nothing of it, and touches nothing. Keys are named by their files.
      - V(deleted) removes the device, all that hangs on it, and the file of O(subnet_env), as the document kept on this
        node names them. Without such a document nothing is removed, and a warning tells so, because a device of that
        name is not known to be ours.
      - V(gathered) reads only. Peers come without names, which the kernel does not know.
    type: str
    choices: [overridden, merged, replaced, deleted, gathered, rendered]
    default: overridden
  network:
    description:
      - IPv4 pod network of the cluster in CIDR form, at most a /28.
      - Default is 10.244.0.0/16, and none where O(network6) is declared.
    type: str
  network6:
    description:
      - IPv6 pod network of the cluster in CIDR form, at most a /124. Together with O(network) it is dual stack.
      - Each IP version travels over an underlay of its own version. The device for IPv6 of V(vxlan) is called
        C(flannel-v6.VNI), which leaves four digits for O(backend.vni). V(ipip) carries IPv4 only.
    type: str
  subnet_env:
    description: The file that flannel's CNI plugin reads. Not written by default.
    type: dict
    suboptions:
      path:
        description: Absolute path.
        type: path
        default: /run/flannel/subnet.env
      ipmasq:
        description: Whether the node masquerades pod traffic, so that the plugin must not.
        type: bool
        default: false
  nexthop_objects:
    description:
      - Whether routes to peers go through nexthop objects of the kernel, identifiers 1073741824 to 2147483647, which
        C(ip route) shows as C(nhid). To packets it is the same. The kernel needs quadratic time for many plain routes
        over one device, and linear time for routes through objects.
      - Default is yes where the kernel has them, which is from Linux 5.3 on. A change converts all routes in place.
    type: bool
seealso:
  - module: fairlead.cluster.overlay_lease
  - module: fairlead.cluster.wireguard_key
  - module: fairlead.cluster.masquerade
"""

EXAMPLES = r"""
- name: Connect two nodes
  fairlead.cluster.overlay_network:
    network: 10.244.0.0/16
    node: {name: w1, address: 192.0.2.14, subnet: 10.244.4.0/24, mac: "02:5e:10:00:00:04"}
    peers:
      - {name: w2, address: 192.0.2.15, subnet: 10.244.5.0/24, mac: "02:5e:10:00:00:05"}

# operations, the last four of seven:
#   - + neighbor 10.244.5.0 lladdr 02:5e:10:00:00:05 dev flannel.1
#   - + fdb 02:5e:10:00:00:05 dst 192.0.2.15 dev flannel.1 self
#   - + nexthop id 1073743104 via 10.244.5.0 dev flannel.1 onlink
#   - + route 10.244.5.0/24 via 10.244.5.0 dev flannel.1 onlink nexthop_id 1073743104

- name: See what is there
  fairlead.cluster.overlay_network:
    state: gathered

- name: Plain routes between nodes on one link
  fairlead.cluster.overlay_network:
    backend: {type: host-gw}
    node: {name: w1, address: 192.0.2.14, subnet: 10.244.4.0/24}
    peers: [{name: w2, address: 192.0.2.15, subnet: 10.244.5.0/24}]

- name: Dual stack
  fairlead.cluster.overlay_network:
    network: 10.244.0.0/16
    network6: fd00:10:244::/56
    node: &w1
      name: w1
      address: 192.0.2.14
      subnet: 10.244.4.0/24
      mac: "02:5e:10:00:00:04"
      address6: 2001:db8::14
      subnet6: fd00:10:244:4::/64
      mac6: "02:5e:10:00:06:04"
    peers: [*w1]

- name: Encrypted, with the key that module wireguard_key made
  fairlead.cluster.overlay_network:
    backend: {type: wireguard, keepalive: 25}
    node: {name: w1, address: 192.0.2.14, subnet: 10.244.4.0/24, public_key: "{{ own.public_key }}"}
    peers:
      - name: w2
        address: 192.0.2.15
        subnet: 10.244.5.0/24
        public_key: fSXPDUbHZ7aBKDkV4BBvEOgGSzFPRQgnvTrc4VQWnGU=

- name: Remove the datapath
  fairlead.cluster.overlay_network:
    state: deleted
"""

RETURN = r"""
before:
  description: The objects of the datapath as found. Their C(kind) is C(vxlan), C(address), C(link_up), C(neighbor),
    C(ipip), C(fdb), C(nexthop), C(route), C(wireguard), C(wireguard_peer) or C(file). Secret keys are left
    out.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each change, in order.
  returned: success
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {operations: {fdb: 4900, neighbor: 4900, nexthop: 4900, route: 4900}}
device:
  description: Name of the backend's device for IPv4. Null with V(host-gw).
  returned: success
  type: str
  sample: flannel.1
device6:
  description: Name of the backend's device for IPv6. Null without one.
  returned: success
  type: str
  sample: flannel-v6.1
mtu:
  description: The largest MTU for pods, that of the device or with V(host-gw) the interface. Null without an overlay.
  returned: success
  type: int
  sample: 1450
rendered:
  description: Command lines, in the order in which they are to be run.
  returned: with O(state=rendered)
  type: list
  elements: str
gathered:
  description: What is there in the form of the parameters.
  returned: with O(state=gathered)
  type: dict
  sample:
    interface: eth0
    backend: {type: vxlan, vni: 1, port: 8472, mtu: 1500}
    peers: [{subnet: 10.244.5.0/24, mac: "02:5e:10:00:00:05", address: 192.0.2.15}]
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import result_of, run
from ..module_utils._deps import has_pyroute2, require_pyroute2
from ..module_utils._desired import store
from ..module_utils._desired.overlay_network import KIND, about, converge, gather, not_ours, predict
from ..module_utils._engine import Outcome, together
from ..module_utils._model.item import State
from ..module_utils._model.members import of_backend
from ..module_utils._model.overlay_forms import commands, described, joined
from ..module_utils._model.wireguard import KEY_FILE
from ..module_utils._system.lock import exclusive
from ..module_utils._system.runner import module_runner

MAKING = ("overridden", "merged", "replaced")
HALF = ("address", "subnet", "mac", "public_key", "listen_port")
IDENTITY = ("name", *HALF, *(f"{name}6" for name in HALF))
MEMBER = {
    **{name: {"type": "int" if "port" in name else "str"} for name in IDENTITY},
    "backend_type": {"type": "str"},
    "ttl": {"type": "int"},
}
BACKEND = {
    "type": {"type": "str", "choices": ["vxlan", "host-gw", "ipip", "wireguard"], "default": "vxlan"},
    **{name: {"type": "int"} for name in ("vni", "port", "listen_port", "listen_port6", "keepalive")},
    "mtu": {"type": "int", "default": 0},
    **{name: {"type": "bool"} for name in ("gbp", "learning", "direct_routing")},
    "psk": {"type": "str", "no_log": True},
    "mode": {"type": "str", "choices": ["separate", "auto", "ipv4", "ipv6"]},
    # The name of a file, which is no secret.
    "key_file": {"type": "path", "no_log": False},
}
SUBNET_ENV = {
    "path": {"type": "path", "default": "/run/flannel/subnet.env"},
    "ipmasq": {"type": "bool", "default": False},
}
SPEC = {
    "state": {"type": "str", "choices": [*MAKING, "deleted", "gathered", "rendered"], "default": "overridden"},
    "network": {"type": "str"},
    "network6": {"type": "str"},
    "backend": {"type": "dict", "default": {}, "options": BACKEND},
    "node": {"type": "dict", "options": MEMBER},
    "peers": {"type": "list", "elements": "dict", "default": [], "options": MEMBER},
    "interface": {"type": "str"},
    "interface_regex": {"type": "list", "elements": "str"},
    "interface_can_reach": {"type": "str"},
    "public_address": {"type": "str"},
    "public_address6": {"type": "str"},
    "subnet_env": {"type": "dict", "options": SUBNET_ENV},
    "nexthop_objects": {"type": "bool"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    document, state = _document(module.params), module.params["state"]
    if state == "rendered":
        outcome = predict(document)
        key_file = document["backend"].get("key_file") or KEY_FILE
        lines = [line for operation in outcome.operations for line in commands(operation.item, key_file)]
        return {**_unchanged(module, document, {}), "rendered": lines}
    if state == "gathered":
        require_pyroute2(module)
        found = gather(document)
        return {**_unchanged(module, document, found), "gathered": described(found)}
    with exclusive(KIND, module.check_mode):
        return _changed(module, document, state)


def _changed(module: AnsibleModule, document: Dict[str, Any], state: str) -> Dict[str, Any]:
    if state in ("merged", "replaced"):
        document = joined(store.load(KIND), document)
    if module.check_mode and state in MAKING and not has_pyroute2():
        return _predicted(module, document)
    require_pyroute2(module)
    warning = not_ours(document) if state == "deleted" else None
    if warning:
        module.warn(warning)
    wanted = "deleted" if state == "deleted" else "overridden"
    outcome = converge({**document, "state": wanted}, module.check_mode, module_runner(module))
    kept = store.remember(KIND, document if state in MAKING else None, module.check_mode)
    return {**result_of(module, together(outcome, kept), "overlay network"), **about(document, outcome)}


def _unchanged(module: AnsibleModule, document: Dict[str, Any], found: State) -> Dict[str, Any]:
    outcome = Outcome(found, found, [])
    return {**result_of(module, outcome, "overlay network"), **about(document, outcome)}


def _predicted(module: AnsibleModule, document: Dict[str, Any]) -> Dict[str, Any]:
    module.warn("predicted for a node without anything of the overlay: the runtime, which reads the kernel, is missing")
    outcome = predict(document)
    kept = store.save(KIND, document, check=True)
    return {**result_of(module, together(outcome, kept), "overlay network"), **about(document, outcome)}


def _document(params: Dict[str, Any]) -> Dict[str, Any]:
    """What is remembered: without the state, without what only tells of the age of a lease, and without peers of other
    backends."""
    document = {key: value for key, value in params.items() if key != "state"}
    node, backend_type = document["node"], document["backend"]["type"]
    peers = [_identity(peer) for peer in document["peers"] if of_backend(peer, backend_type)]
    return {**document, "node": node and _identity(node), "peers": peers}


def _identity(member: Dict[str, Any]) -> Dict[str, Any]:
    return {key: member[key] for key in IDENTITY if member[key] is not None}


def main() -> None:
    required = [("state", state, ["node"]) for state in (*MAKING, "rendered")]
    run(AnsibleModule(SPEC, required_if=required, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
