#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_service
short_description: Keep the services of a cluster on this node
version_added: 0.2.0
author: the Fairlead authors
description:
  - Makes the Services of Kubernetes manifests work on a node without an API server and without kube-proxy. Cluster
    IPs, node ports, external IPs and load balancer addresses become virtual services of the kernel's IPVS in front of
    the endpoints, as kube-proxy in mode ipvs would have them.
  - Beside them stand rules of the packet filter in chains and sets of our own. They masquerade what could not be
    answered otherwise, keep clients out that a load balancer's source ranges leave out, and refuse what is sent to a
    service's address and to none of its ports.
  - All of it is planned at once, verified by reading it again, and taken back at once when a step fails. An endpoint
    that goes gets no new connections, and is removed when those that it has have ended, see O(drain_seconds).
  - The document is kept on the node and applied again at boot. What earlier runs made, and nothing else, is removed
    when it is not wanted any more.
extends_documentation_fragment: fairlead.cluster.attributes
notes:
  - Takes what kube-proxy takes on a node. On a node with a running kube-proxy, use that.
  - The sysctl C(net.ipv4.vs.conntrack) must be 1 for masquerading; role fairlead.cluster.services sets it and others.
  - Of services with C(healthCheckNodePort), C(/run/fairlead/health_checks.json) has how many endpoints are ready. The
    node runtime answers load balancers from it where C(fairlead-health.path) is started, as role
    fairlead.cluster.services does.
options:
  objects:
    description:
      - Objects as in YAML manifests, in any order. Services, EndpointSlices and lists of them count; other kinds are
        skipped with a word.
      - Without an API server, Services need their cluster IPs and node ports declared, and EndpointSlices the label
        C(kubernetes.io/service-name).
    type: list
    elements: dict
    default: []
  node:
    description: This node. Required with O(state=present).
    type: dict
    suboptions:
      name:
        description: The name by which endpoints tell that they are on this node.
        type: str
        required: true
      zone:
        description: The zone that endpoints' hints speak of.
        type: str
      address:
        description: The node's own IPv4 address. Default is the first one that it has.
        type: str
      address6:
        description: The same of IPv6.
        type: str
      families:
        description: IP versions that services are made for.
        type: list
        elements: str
        choices: [ipv4, ipv6]
      node_port_addresses:
        description:
          - Networks with the addresses of this node that have node ports, or V(primary) alone for O(node.address) and
            O(node.address6). Default is all addresses of all interfaces.
        type: list
        elements: str
      scheduler:
        description: How an endpoint is chosen, one of the kernel's schedulers for IPVS.
        type: str
      cluster_networks:
        description: Networks of all pods. Clients in them keep their address when they use a cluster IP.
        type: list
        elements: str
      masquerade_all:
        description: Whether clients lose their address at cluster IPs in any case.
        type: bool
      members:
        description:
          - Addresses of all nodes of the cluster. None may be a cluster IP. A service that has one as an external IP,
            or as that of a load balancer, is reached by it, and so is everything else of that node.
        type: list
        elements: str
      node_ports:
        description: Ports that Services may take of nodes, C(FIRST-LAST). Default is V(30000-32767).
        type: str
  backend:
    description:
      - What holds the rules. V(auto) takes what module fairlead.cluster.masquerade uses on this node if it can, and
        otherwise the first that works.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  drain_seconds:
    description: How long to wait, in all, for the connections of endpoints that are removed.
    type: int
    default: 30
  state:
    description: With V(absent), everything that this module made is removed.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: fairlead.cluster.ipvs_service
  - module: fairlead.cluster.masquerade
"""

EXAMPLES = r"""
- name: Services of the cluster
  fairlead.cluster.cluster_service:
    node:
      name: w1
      cluster_networks: [10.244.0.0/16]
    objects:
      - apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec:
          clusterIP: 10.96.0.80
          ports: [{port: 80, targetPort: 8080}]
      - apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
        addressType: IPv4
        ports: [{port: 8080}]
        endpoints:
          - {addresses: [10.244.1.5], nodeName: w1}
          - {addresses: [10.244.2.5], nodeName: w2}
"""

RETURN = r"""
passed_over:
  description: Objects that lead to no virtual service, with the reason, a line each.
  returned: success
  type: list
  elements: str
  sample: ["Service default/db: headless: clients find its endpoints by DNS"]
before:
  description: Virtual services, real servers, addresses, and our rules and sets as found.
  returned: success
  type: list
  elements: dict
  sample: [{kind: virtual_service, service: "tcp 10.96.0.80:80", scheduler: rr, flags: 0, persistence: 0}]
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
from ..module_utils._desired.cluster_service import change
from ..module_utils._system.runner import module_runner

NODE = {
    "name": {"type": "str", "required": True},
    **{name: {"type": "str"} for name in ("zone", "address", "address6", "scheduler", "node_ports")},
    "families": {"type": "list", "elements": "str", "choices": ["ipv4", "ipv6"]},
    **{name: {"type": "list", "elements": "str"} for name in ("node_port_addresses", "cluster_networks", "members")},
    "masquerade_all": {"type": "bool"},
}
SPEC = {
    "objects": {"type": "list", "elements": "dict", "default": []},
    "node": {"type": "dict", "options": NODE},
    "backend": {"type": "str", "choices": ["auto", "nftables", "iptables"], "default": "auto"},
    "drain_seconds": {"type": "int", "default": 30},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    work, outcome = change(_document(module.params), module.check_mode, module_runner(module))
    result = result_of(module, outcome, "services of the cluster")
    return {**result, "passed_over": [f"{each.object}: {each.reason}" for each in work.skipped]}


def _document(params: Dict[str, Any]) -> Dict[str, Any]:
    """Without what is not declared, so that the same declaration is remembered as the same."""
    node = params["node"]
    return {**params, "node": node and {key: value for key, value in node.items() if value is not None}}


def main() -> None:
    run(AnsibleModule(SPEC, required_if=[("state", "present", ["node"])], supports_check_mode=True), body)


if __name__ == "__main__":
    main()
