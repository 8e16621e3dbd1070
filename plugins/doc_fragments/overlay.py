# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Options of module overlay_network about the backend and the nodes of an overlay, and about its underlay."""

from __future__ import annotations


class ModuleDocFragment:
    BACKEND = r"""
options:
  backend:
    description: How packets travel between nodes.
    type: dict
    default: {}
    suboptions:
      type:
        description:
          - V(vxlan) sends packets in UDP packets, over a device C(flannel.VNI). It costs 50 bytes, over IPv6 70.
          - V(host-gw) is plain routes to the nodes, which all have to be on one link; there is no device and no loss.
          - V(ipip) sends packets in IPv4 packets, over a device C(flannel.ipip), 20 bytes a packet. The kernel makes a
            device C(tunl0) when it loads its module; that one is left alone. A kernel without ipip is refused.
          - V(wireguard) sends packets encrypted in UDP packets, over a device C(flannel-wg), and with dual stack a
            second one C(flannel-wg-v6), 80 bytes a packet. All nodes need keys of M(fairlead.cluster.wireguard_key). A
            kernel without wireguard is refused.
        type: str
        choices: [vxlan, host-gw, ipip, wireguard]
        default: vxlan
      vni:
        description:
          - VXLAN network identifier, 1 to 9999999 because the device is called C(flannel.VNI).
          - Default is 1. Only for V(vxlan).
        type: int
      port:
        description: UDP port, 1 to 65535. Default is 8472, flannel's and the kernel's. Only for V(vxlan).
        type: int
      mtu:
        description:
          - MTU of the underlay in bytes, at most that of the interface. V(0) takes the interface's.
          - The device gets less by what the backend adds, 50 bytes with V(vxlan), 70 over IPv6, 20 with V(ipip), 80
            with V(wireguard). Pods have one MTU, so with dual stack that of the device for IPv6 counts. IPv6 needs
            1280 bytes.
        type: int
        default: 0
      gbp:
        description: Group based policy, which carries the mark of a packet to the peer. Only for V(vxlan).
        type: bool
      learning:
        description: Whether the device learns which node a MAC address belongs to. Only for V(vxlan).
        type: bool
      direct_routing:
        description:
          - Peers that a route lookup finds on one of this node's links, with no gateway, get a plain route to their
            address, as with V(host-gw). All others go over the device. Not for V(host-gw), which has nothing else.
          - The underlay must let packets with pods' addresses pass, and reverse path filters must be loose while nodes
            differ.
        type: bool
      psk:
        description:
          - Key that all nodes share in advance, as C(wg genpsk) prints it. Nodes with different ones do not hear each
            other. Kept in the node's saved document, readable for root only; no result shows it. Only for V(wireguard).
        type: str
      listen_port:
        description: UDP port of C(flannel-wg), 1 to 65535. Default is 51820. Only for V(wireguard).
        type: int
      listen_port6:
        description:
          - UDP port of C(flannel-wg-v6), another one than O(backend.listen_port). Default is 51821.
          - Only for V(wireguard).
        type: int
      keepalive:
        description:
          - Seconds between packets that keep a way through address translation open. Default is V(0), none.
          - Only for V(wireguard).
        type: int
      mode:
        description:
          - With V(separate), the default, each IP version has its own device. Otherwise C(flannel-wg) carries both,
            and reaches peers with two addresses by IPv4 (V(ipv4)), by IPv6 (V(ipv6)), or as flannel chooses (V(auto)),
            which is IPv6 only where IPv4 addresses of peers are private and IPv6 addresses are not.
          - Only for V(wireguard).
        type: str
        choices: [separate, auto, ipv4, ipv6]
      key_file:
        description:
          - File with this node's private key. Default is F(/etc/fairlead/wireguard.key). Only for V(wireguard).
        type: path
"""
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
      public_key:
        description:
          - WireGuard's public key of the node, from M(fairlead.cluster.wireguard_key). Required with V(wireguard).
        type: str
      listen_port:
        description: UDP port of the node. Default is O(backend.listen_port).
        type: int
      public_key6:
        description: The key of the device for IPv6. Default is O(node.public_key), as nodes have one key.
        type: str
      listen_port6:
        description: The same as O(node.listen_port) for O(node.address6).
        type: int
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
