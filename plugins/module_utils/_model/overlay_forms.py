# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Other forms of an overlay: joined with an earlier one, as commands of `ip` and `bridge`, and as found on a node in
the form of the parameters of module overlay_network."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from .backend import HOST_GW, WIREGUARD, overhead
from .datapath import (
    NO_DUPLICATE_DETECTION,
    SCOPE_LINK,
    Device,
    DeviceAddress,
    ForwardingEntry,
    IpipDevice,
    LinkUp,
    Neighbor,
    Nexthop,
    Route,
    VxlanDevice,
    device_version,
)
from .ip_version import version_of
from .item import Item, State
from .wireguard import WIREGUARD_DEVICE6, WIREGUARD_OVERHEAD, WireguardDevice, WireguardPeer, split_endpoint


def joined(earlier: Optional[Mapping[str, Any]], declared: Mapping[str, Any]) -> Dict[str, Any]:
    """The declared document with those peers of the earlier one that no declared peer replaces.

    One replaces another by having its name or its subnet. Both are parameters of module overlay_network.
    """
    keys = ("name", "subnet", "subnet6")
    taken = {peer[key] for peer in declared["peers"] for key in keys if peer.get(key)}
    kept = [peer for peer in (earlier or {}).get("peers", []) if not taken.intersection(peer.get(key) for key in keys)]
    return {**declared, "peers": [*kept, *declared["peers"]]}


def described(state: State) -> Dict[str, Any]:
    """Names, and which halves belong to one peer, are left out: the kernel does not know. So are private and preshared
    keys, which no result shows."""
    if any(isinstance(item, WireguardDevice) for item in state.values()):
        return _described_wireguard(state)
    devices = {item.name: item for item in state.values() if isinstance(item, (VxlanDevice, IpipDevice))}
    routes = [item for item in state.values() if isinstance(item, Route)]
    peers = _described_peers(state, devices)
    if not devices:
        return {"interface": routes[0].device, "backend": {"type": HOST_GW}, "peers": peers} if routes else {}
    own = [item.address for item in state.values() if isinstance(item, DeviceAddress)]
    node: Dict[str, Any] = {"device_addresses": own}
    for device in devices.values():
        suffix = device_version(device).suffix
        node[f"address{suffix}"] = device.local
        if isinstance(device, VxlanDevice):
            node[f"mac{suffix}"] = device.mac
    first = next(iter(devices.values()))
    backend = _described_backend(first)
    if any(route.device not in devices for route in routes):
        backend["direct_routing"] = True
    found = {"backend": backend, "node": node, "peers": peers}
    return {"interface": first.link, **found} if isinstance(first, VxlanDevice) else found


def _described_wireguard(state: State) -> Dict[str, Any]:
    """A mode is not told: one device may be for both IP versions, or there may be no more than one version."""
    devices = [item for item in state.values() if isinstance(item, WireguardDevice)]
    backend: Dict[str, Any] = {"type": WIREGUARD, "mtu": min(device.mtu for device in devices) + WIREGUARD_OVERHEAD}
    node: Dict[str, Any] = {
        "device_addresses": [item.address for item in state.values() if isinstance(item, DeviceAddress)]
    }
    for device in devices:
        suffix = "6" if device.name == WIREGUARD_DEVICE6 else ""
        backend[f"listen_port{suffix}"] = device.listen_port
        node[f"public_key{suffix}"] = device.public_key
    peers: List[Dict[str, Any]] = []
    for peer in state.values():
        if isinstance(peer, WireguardPeer):
            peers.append(
                {**_described_endpoint(peer), **{f"subnet{version_of(n).suffix}": n for n in peer.allowed_ips}}
            )
            backend["keepalive"] = peer.keepalive
    return {"backend": backend, "node": node, "peers": peers}


def _described_endpoint(peer: WireguardPeer) -> Dict[str, Any]:
    if not peer.endpoint:
        return {"public_key": peer.public_key}
    address, port = split_endpoint(peer.endpoint)
    suffix = version_of(address).suffix
    return {f"public_key{suffix}": peer.public_key, f"address{suffix}": address, f"listen_port{suffix}": port}


def _described_backend(device: Device) -> Dict[str, Any]:
    mtu = device.mtu + overhead(device.kind, device_version(device))
    if isinstance(device, IpipDevice):
        return {"type": device.kind, "mtu": mtu}
    options = {name: True for name in ("gbp", "learning") if getattr(device, name)}
    return {"type": device.kind, "mtu": mtu, "vni": device.vni, "port": device.port, **options}


def _described_peers(state: State, devices: Mapping[str, Device]) -> List[Dict[str, Any]]:
    macs = {(item.device, item.address): item.mac for item in state.values() if isinstance(item, Neighbor)}
    addresses = {
        (item.device, item.mac): item.destination for item in state.values() if isinstance(item, ForwardingEntry)
    }
    peers: List[Dict[str, Any]] = []
    for item in state.values():
        if isinstance(item, Route):
            suffix, device = version_of(item.destination).suffix, item.device
            mac = macs.get((device, item.gateway))
            overlaid = isinstance(devices.get(device), VxlanDevice)
            address = addresses.get((device, mac or "")) if overlaid else item.gateway
            peers.append({f"subnet{suffix}": item.destination, f"mac{suffix}": mac, f"address{suffix}": address})
    return peers


def commands(item: Item, key_file: str = "") -> List[str]:
    """Command lines that make the object; none for an object that is no part of the kernel's. ``key_file`` stands for
    WireGuard's private key, and a file of the same name with .psk for the preshared one: no command shows a key."""
    if isinstance(item, VxlanDevice):
        return _vxlan_commands(item)
    if isinstance(item, IpipDevice):
        return [f"ip link add {item.name} mtu {item.mtu} type ipip local {item.local} remote any"]
    if isinstance(item, WireguardDevice):
        made = f"ip link add {item.name} mtu {item.mtu} txqlen 0 type wireguard"
        return [made, f"wg set {item.name} listen-port {item.listen_port} private-key {key_file}"]
    if isinstance(item, WireguardPeer):
        return [_peer_command(item, key_file)]
    if isinstance(item, DeviceAddress):
        without_detection = dict(item.options).get("flags") == NO_DUPLICATE_DETECTION
        return [f"ip address replace {item.address} dev {item.device}{' nodad' if without_detection else ''}"]
    if isinstance(item, LinkUp):
        return [f"ip link set {item.device} up"]
    if isinstance(item, Neighbor):
        return [f"ip neigh replace {item.address} lladdr {item.mac} dev {item.device} nud permanent"]
    if isinstance(item, ForwardingEntry):
        return [f"bridge fdb replace {item.mac} dst {item.destination} dev {item.device} self permanent"]
    if isinstance(item, Nexthop):
        return [f"ip nexthop replace id {item.id} {_way(item.gateway, item.device, item.onlink)} proto boot"]
    if isinstance(item, Route):
        way = f"nhid {item.nexthop_id}" if item.nexthop_id else _way(item.gateway, item.device, item.onlink)
        scope = " scope link" if item.scope == SCOPE_LINK else ""
        return [f"ip route replace {item.destination} {way} proto boot{scope}"]
    return []


def _peer_command(item: WireguardPeer, key_file: str) -> str:
    words = [f"wg set {item.device} peer {item.public_key} allowed-ips {','.join(item.allowed_ips)}"]
    words += [f"endpoint {item.endpoint}", f"persistent-keepalive {item.keepalive}"]
    return " ".join([*words, *([f"preshared-key {key_file}.psk"] if item.preshared_key else [])])


def _vxlan_commands(item: VxlanDevice) -> List[str]:
    learning = "learning" if item.learning else "nolearning"
    words = [f"ip link add {item.name} address {item.mac} mtu {item.mtu} txqlen 0 type vxlan id {item.vni}"]
    words += [f"local {item.local} dev {item.link} dstport {item.port} {learning}", *(["gbp"] if item.gbp else [])]
    # Slashes instead of dots: the name of the device has a dot of its own.
    sysctl = [] if item.accept_ra is None else [f"sysctl -q -w net/ipv6/conf/{item.name}/accept_ra={item.accept_ra}"]
    return [" ".join(words), *sysctl]


def _way(gateway: str, device: str, onlink: bool) -> str:
    via = [f"via {gateway}"] if gateway else []
    return " ".join([*via, *([f"dev {device}"] if device else []), *(["onlink"] if onlink else [])])
