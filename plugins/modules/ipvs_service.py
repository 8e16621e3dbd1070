#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: ipvs_service
short_description: Keep the virtual services of this node
version_added: 0.2.0
author: the Fairlead authors
description:
  - Brings the virtual services of the kernel's IPVS, their real servers, and the addresses that packets for them go to,
    to what is declared, all in one call.
  - Reads the kernel, sends only what differs, reads again to verify, and takes everything back when a step fails. A
    service that stays loses no connection, whatever happens to others.
  - A real server of TCP or SCTP that is removed from a service that stays, and has connections, gets weight 0 first, so
    that no new ones come, and goes when they have ended, at most O(drain_seconds) later. A server of UDP goes at once,
    and so do the servers of a service that is removed.
  - Addresses of services that no other interface of the node has are put on a dummy device of our own. It stays down,
    so that the node answers nobody who asks for them by ARP there. Service addresses of other programs, such as those
    on C(kube-ipvs0), are not touched.
  - A real kube-proxy in mode ipvs removes services that it does not know, unless its option C(excludeCIDRs) has their
    addresses.
  - The document is kept on the node and applied again at boot.
extends_documentation_fragment: fairlead.cluster.attributes
notes:
  - With more than 200 services on a node, thresholds and tunnels that somebody else gave to real servers for which none
    are declared are not noticed, since the kernel's table of all services does not tell them.
options:
  services:
    description: The virtual services.
    type: list
    elements: dict
    default: []
    suboptions:
      protocol:
        description: Protocol of the packets. The default is V(tcp).
        type: str
        choices: [tcp, udp, sctp]
      address:
        description: Where packets go to, an IPv4 or IPv6 address. Required without O(services[].mark).
        type: str
      port:
        description:
          - Where packets go to. Required without O(services[].mark). V(0) stands for all ports, which takes
            O(services[].persistence).
        type: int
      mark:
        description: Take packets that the packet filter gave this firewall mark, instead of those of an address.
        type: int
      family:
        description: The IP version of packets with O(services[].mark).
        type: str
        choices: [ipv4, ipv6]
      scheduler:
        description:
          - How a real server is chosen. The kernel has a module for each, C(ip_vs_NAME), which is loaded.
        type: str
        choices: [rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq, fo, ovf, mh, twos]
        default: rr
      flags:
        description:
          - V(one-packet) chooses a server for each datagram. V(fallback) and V(port) are for schedulers V(sh) and
            V(mh), and make them choose another server when one cannot take a connection, and heed the client's port.
        type: list
        elements: str
        choices: [one-packet, fallback, port]
        default: []
      persistence:
        description: Seconds for which a client stays with its real server, V(0) for not at all.
        type: int
        default: 0
      persistence_netmask:
        description: Clients that have a prefix of this length in common stay together. Default is each for itself.
        type: int
      persistence_engine:
        description: What else tells clients apart. V(sip) takes the Call-ID of SIP, over UDP.
        type: str
        choices: [sip]
      servers:
        description: The real servers.
        type: list
        elements: dict
        default: []
        suboptions:
          address:
            description: Where packets are sent, of the IP version of the service unless they go through a tunnel.
            type: str
            required: true
          port:
            description: Default is that of the service.
            type: int
          forwarding:
            description:
              - V(masquerade) rewrites the destination, as kube-proxy has it. V(direct) sends the packet as it is to the
                server's link, V(tunnel) inside of another one.
            type: str
            choices: [masquerade, tunnel, direct]
            default: masquerade
          weight:
            description: Share of the new connections, with schedulers that heed it. V(0) gives none.
            type: int
            default: 1
          connections_max:
            description: With more connections, the server gets no new ones. V(0) is no limit.
            type: int
            default: 0
          connections_min:
            description: The server gets new connections again with less than these.
            type: int
            default: 0
          tunnel:
            description: How packets are put into others with O(services[].servers[].forwarding=tunnel).
            type: dict
            suboptions:
              type:
                description: The kind of tunnel.
                type: str
                choices: [ipip, gue, gre]
                default: ipip
              port:
                description: UDP port, required with V(gue).
                type: int
              checksum:
                description: Of V(gue) and V(gre).
                type: str
                choices: [none, checksum, remote]
                default: none
  scope:
    description:
      - What is ours alone. With O(state=overridden), services that are in it and not declared are removed, whoever made
        them but M(fairlead.cluster.cluster_service). It must have none of kube-proxy's addresses.
      - Other services that no earlier run made are never touched.
    type: list
    elements: dict
    default: []
    suboptions:
      network:
        description: Services with addresses in this network.
        type: str
      ports:
        description: Of these only those with ports V(LOW-HIGH).
        type: str
      marks:
        description: Services with firewall marks V(LOW-HIGH).
        type: str
  device:
    description:
      - The dummy device for addresses. With an empty string, addresses are left to others.
      - Everything on it is ours, so a device that is there and that this module did not make is refused. Only that with
        the default name is always taken for ours.
    type: str
    default: fairlead-ipvs
  timeouts:
    description:
      - Seconds without a packet after which a connection is forgotten, for all services of the node. V(0) leaves what
        is there.
      - The kernel's own come back where they are not declared any more, with O(state=overridden), and when the last
        service that earlier runs made is deleted.
    type: dict
    suboptions:
      tcp:
        description: Of established connections.
        type: int
        default: 0
      tcp_fin:
        description: Of connections that one side has closed.
        type: int
        default: 0
      udp:
        description: Of datagrams.
        type: int
        default: 0
  drain_seconds:
    description: How long to wait, in all, for the connections of real servers that are removed.
    type: int
    default: 30
  state:
    description:
      - V(overridden) makes exactly what is declared, and removes what earlier runs made and what O(scope) has.
      - V(replaced) leaves services that are not declared alone.
      - V(merged) also leaves real servers of declared services alone that are not declared.
      - V(deleted) removes the services that are declared, or without any, all that earlier runs made and O(scope) has.
      - V(gathered) reads all services of the node and changes nothing.
      - V(rendered) returns the lines that C(ipvsadm --restore) would take, and touches nothing.
    type: str
    choices: [overridden, merged, replaced, deleted, gathered, rendered]
    default: overridden
seealso:
  - module: fairlead.cluster.masquerade
"""

EXAMPLES = r"""
- name: Two servers behind one address
  fairlead.cluster.ipvs_service:
    services:
      - protocol: tcp
        address: 198.51.100.80
        port: 80
        servers:
          - {address: 10.244.1.5, port: 8080}
          - {address: 10.244.2.5, port: 8080}
    scope:
      - network: 198.51.100.0/24

# operations:
#   - + virtual service tcp 198.51.100.80:80 scheduler rr
#   - + real server 10.244.1.5:8080 of tcp 198.51.100.80:80 masquerade weight 1
#   - + real server 10.244.2.5:8080 of tcp 198.51.100.80:80 masquerade weight 1
#   - + dummy fairlead-ipvs
#   - + address 198.51.100.80/32 dev fairlead-ipvs

- name: Take a server out without a broken connection
  fairlead.cluster.ipvs_service:
    services:
      - {protocol: tcp, address: 198.51.100.80, port: 80, servers: [{address: 10.244.2.5, port: 8080}]}
    state: replaced
    drain_seconds: 60

# operations:
#   - ~ real server 10.244.1.5:8080 of tcp 198.51.100.80:80 masquerade weight 0 (was ... weight 1)
#   - - real server 10.244.1.5:8080 of tcp 198.51.100.80:80 masquerade weight 0

- name: Remove what this module made
  fairlead.cluster.ipvs_service:
    state: deleted
"""

RETURN = r"""
gathered:
  description: All services of the node, as parameters of this module.
  returned: with O(state=gathered)
  type: dict
rendered:
  description: Lines for C(ipvsadm --restore).
  returned: with O(state=rendered)
  type: list
  elements: str
  sample: ["-A -t 198.51.100.80:80 -s rr", "-a -t 198.51.100.80:80 -r 10.244.1.5:8080 -m -w 1"]
before:
  description: Services, real servers, time-outs and addresses of the device as found, those of others too.
  returned: success
  type: list
  elements: dict
  sample: [{kind: virtual_service, service: "tcp 198.51.100.80:80", scheduler: rr, flags: 0, persistence: 0}]
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
from ..module_utils._desired.ipvs_service import change, gather
from ..module_utils._engine import Outcome
from ..module_utils._model.ipvs_service import parse_services
from ..module_utils._model.ipvs_text import ipvsadm_lines
from ..module_utils._system.runner import module_runner

TUNNEL = {
    "type": {"type": "str", "choices": ["ipip", "gue", "gre"], "default": "ipip"},
    "port": {"type": "int"},
    "checksum": {"type": "str", "choices": ["none", "checksum", "remote"], "default": "none"},
}
SERVER = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int"},
    "forwarding": {"type": "str", "choices": ["masquerade", "tunnel", "direct"], "default": "masquerade"},
    "weight": {"type": "int", "default": 1},
    "connections_max": {"type": "int", "default": 0},
    "connections_min": {"type": "int", "default": 0},
    "tunnel": {"type": "dict", "options": TUNNEL},
}
SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "twos"]
FLAGS = ["one-packet", "fallback", "port"]
SERVICE = {
    "protocol": {"type": "str", "choices": ["tcp", "udp", "sctp"]},
    "address": {"type": "str"},
    "port": {"type": "int"},
    "mark": {"type": "int"},
    "family": {"type": "str", "choices": ["ipv4", "ipv6"]},
    "scheduler": {"type": "str", "choices": SCHEDULERS, "default": "rr"},
    "flags": {"type": "list", "elements": "str", "choices": FLAGS, "default": []},
    "persistence": {"type": "int", "default": 0},
    "persistence_netmask": {"type": "int"},
    "persistence_engine": {"type": "str", "choices": ["sip"]},
    "servers": {"type": "list", "elements": "dict", "default": [], "options": SERVER},
}
SCOPE = {"network": {"type": "str"}, "ports": {"type": "str"}, "marks": {"type": "str"}}
STATES = ["overridden", "merged", "replaced", "deleted", "gathered", "rendered"]
SPEC = {
    "services": {"type": "list", "elements": "dict", "default": [], "options": SERVICE},
    "scope": {"type": "list", "elements": "dict", "default": [], "options": SCOPE},
    "device": {"type": "str", "default": "fairlead-ipvs"},
    "timeouts": {
        "type": "dict",
        "options": {name: {"type": "int", "default": 0} for name in ("tcp", "tcp_fin", "udp")},
    },
    "drain_seconds": {"type": "int", "default": 30},
    "state": {"type": "str", "choices": STATES, "default": "overridden"},
}


def body(module: AnsibleModule) -> Dict[str, Any]:
    state = module.params["state"]
    document = {key: value for key, value in module.params.items() if key != "state"}
    if state == "gathered":
        return {**_result(module, Outcome({}, {}, [])), "gathered": gather()}
    if state == "rendered":
        declared = parse_services(document)
        return {**_result(module, Outcome({}, {}, [])), "rendered": ipvsadm_lines(declared.services, declared.servers)}
    return _result(module, change(document, state, module.check_mode, module_runner(module)))


def _result(module: AnsibleModule, outcome: Outcome) -> Dict[str, Any]:
    return result_of(module, outcome, "virtual services")


def main() -> None:
    run(AnsibleModule(SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
