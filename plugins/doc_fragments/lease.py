# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Flannel's network configuration, as an option of module overlay_lease."""

from __future__ import annotations


class ModuleDocFragment:
    CONFIG = r"""
options:
  config:
    description:
      - Flannel's network configuration. Every setting is written out, because flannel's defaults differ between its
        releases. Keys in etcd that are not named here are left alone.
      - Required unless O(state=gathered).
      - A different network is refused as long as leases exist.
    type: dict
    suboptions:
      network:
        description:
          - The pod network, IPv4, with a prefix of 28 or shorter.
          - Always required, because flannel's leases in etcd have an IPv4 half in any case. For an overlay of IPv6
            alone give the peers to M(fairlead.cluster.overlay_network) directly.
        type: str
      subnet_len:
        description:
          - Prefix length of a node's subnet, from 2 more than the network's to 30.
          - Default is 24, or 2 more than the network's where that is longer than 22.
        type: int
      subnet_min:
        description: First subnet to give out. Default is the second one of the network, as in flannel.
        type: str
      subnet_max:
        description: Last subnet to give out. Default is the last one of the network.
        type: str
      network6:
        description:
          - The IPv6 pod network, with a prefix of 124 or shorter. With it the cluster has both IP versions.
          - Not with backend V(ipip).
        type: str
      subnet6_len:
        description:
          - Prefix length of a node's IPv6 subnet, from 2 more than the network's to 126.
          - Default is 64, or 2 more than the network's where that is longer than 62.
        type: int
      subnet6_min:
        description: The same as O(config.subnet_min) for IPv6.
        type: str
      subnet6_max:
        description: The same as O(config.subnet_max) for IPv6.
        type: str
      backend:
        description: How packets travel between nodes.
        type: dict
        required: true
        suboptions:
          type:
            description:
              - The backend. When it changes, nodes keep their subnets, and their leases are written anew.
            type: str
            choices: [vxlan, host-gw, ipip, wireguard]
            required: true
          vni:
            description:
              - VXLAN network identifier, 1 to 9999999, for the device is called C(flannel.VNI), with O(config.network6)
                at most 9999, for the other one is called C(flannel-v6.VNI).
              - Required with V(vxlan), refused with any other backend, like all that is only for it.
            type: int
          port:
            description: UDP port, 1 to 65535. Required with V(vxlan).
            type: int
          mtu:
            description:
              - MTU of the underlay, for peers that run flanneld. Default is that of their interface. Only for V(vxlan).
            type: int
          gbp:
            description: Group based policy, for peers that run flanneld. Only for V(vxlan).
            type: bool
          learning:
            description: Address learning, for peers that run flanneld. Only for V(vxlan).
            type: bool
          direct_routing:
            description: Plain routes between nodes on one link, for peers that run flanneld. Not for V(host-gw).
            type: bool
          psk:
            description:
              - Key that all nodes share in advance, as C(wg genpsk) prints it. Only for V(wireguard), like all below.
              - It is in etcd, where flannel has it, and kept on the node, readable for root only; no result shows it.
            type: str
          listen_port:
            description: UDP port of C(flannel-wg). Default is 51820.
            type: int
          listen_port6:
            description: UDP port of C(flannel-wg-v6), the device for IPv6 with O(config.backend.mode=separate), another
              one than O(config.backend.listen_port) then. Default is 51821.
            type: int
          keepalive:
            description: Seconds between packets that keep a way through address translation open. Default is none.
            type: int
          mode:
            description: Whether each IP version has its device, and else by which addresses peers with two are reached.
              Default is V(separate). See M(fairlead.cluster.overlay_network).
            type: str
            choices: [separate, auto, ipv4, ipv6]
"""
