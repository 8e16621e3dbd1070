# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Options of module overlay_network about the nodes of an overlay, and about the interface that carries it."""

from __future__ import annotations


class ModuleDocFragment:
    MEMBERS = r"""
options:
  node:
    description:
      - This node. Required with O(state=overridden).
      - It has O(node.address) and O(node.subnet) for O(network), and O(node.address6) and O(node.subnet6) for
        O(network6).
    type: dict
    suboptions: &member
      name:
        description: Name of the node, lower-case RFC 1123. Only peers may be without one.
        type: str
      address:
        description: IPv4 address on the underlay, outside of O(network).
        type: str
      subnet:
        description: Pod subnet of the node, inside O(network) and at least two bits longer, at most a /30.
        type: str
      mac:
        description:
          - MAC address of the node's VXLAN device for IPv4. Keep it for the life of the node.
          - Required with V(vxlan) and O(network), ignored with any other backend.
        type: str
      address6:
        description: IPv6 address on the underlay, outside of O(network6) and not link-local.
        type: str
      subnet6:
        description: IPv6 pod subnet of the node, inside O(network6) and at least two bits longer, at most a /126.
        type: str
      mac6:
        description: The same as O(node.mac) for the VXLAN device for IPv6.
        type: str
      backend_type:
        description: Backend of a lease. Peers with another one than O(backend.type) are left out, as flannel does.
        type: str
      ttl:
        description: Ignored. Accepted so that leases of M(fairlead.cluster.overlay_lease) can be handed on.
        type: int
  peers:
    description:
      - The other nodes. An entry with the name of O(node) is skipped, so the same list serves all nodes.
      - Names, addresses, MAC addresses and subnets must be unique, and subnets must not overlap.
      - Peers may have the IPv4 or the IPv6 half only, as in a cluster on its way to dual stack.
    type: list
    elements: dict
    default: []
    suboptions: *member
"""
    UNDERLAY = r"""
options:
  interface:
    description:
      - Interface that carries the overlay, by name or by one of its addresses.
      - The first of O(interface), O(interface_regex) and O(interface_can_reach) that finds one counts. Default is the
        interface that holds the address of O(node); with O(public_address) on no interface, that of the default route.
    type: str
  interface_regex:
    description:
      - Regular expressions of Python, tried in order, each against the addresses of all interfaces first and then
        against their names. They match anywhere unless anchored.
    type: list
    elements: str
  interface_can_reach:
    description: IP address; the interface that the route to it leads over carries the overlay.
    type: str
  public_address:
    description:
      - The address by which peers reach this node, where its interface has another one because of address translation.
        Declare it as the address of O(node) too, as a lease has it; packets then leave with the interface's own.
      - Refused with V(host-gw) when it differs from the address of O(node).
    type: str
  public_address6:
    description: The same for O(network6) and O(node.address6).
    type: str
"""
