# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What an overlay rests on: the interface that carries it, and a device name and VNI that nobody else uses."""

from __future__ import annotations

import socket
from typing import Dict, List

from .._model.errors import PrerequisiteError
from .._model.overlay import Backend, Overlay, Underlay
from .entries import GET_ADDRESS, address_request, decode_address
from .links import kind_of, read_link, read_vxlan_links, vni_and_port
from .rtnetlink import Rtnetlink


def find_underlay(netlink: Rtnetlink, overlay: Overlay) -> Underlay:
    """The declared interface, or the one that holds the node's address. Raises PrerequisiteError that tells what there
    is: at boot it may yet come."""
    own = overlay.backend.device
    holders = {name: found for name, found in _addresses(netlink).items() if name != own}
    address = overlay.node.address
    names = [name for name, found in holders.items() if address in found]
    if not names:
        there = ", ".join(f"{one} ({name})" for name, found in holders.items() for one in found)
        raise PrerequisiteError(f"node.address: {address} is on no interface of this node; there are {there or 'none'}")
    name = overlay.interface or names[0]
    link = read_link(netlink, name)
    if link is None or name == own:
        known = ", ".join(known for _index, known in socket.if_nameindex() if known != own)
        raise PrerequisiteError(f"interface: this node has no {name} to carry the overlay; it has {known}")
    return Underlay(name, int(link.get_attr("IFLA_MTU")))


def require_free(netlink: Rtnetlink, backend: Backend, ours: List[str]) -> None:
    """Refuse a device name or VNI that is in use by something that is not ours to change. Raises PrerequisiteError.

    ``ours`` are the names of devices that the run may replace.
    """
    link = read_link(netlink, backend.device)
    if link is not None and kind_of(link) != "vxlan":
        raise PrerequisiteError(
            f"interface {backend.device} is there already and is {kind_of(link) or 'a plain interface'}, not vxlan; "
            f"rename or remove it, or choose another backend.vni"
        )
    for other in read_vxlan_links(netlink):
        name = other.get_attr("IFLA_IFNAME")
        if name not in ours and vni_and_port(other) == (backend.vni, backend.port):
            raise PrerequisiteError(
                f"VXLAN device {name} uses VNI {backend.vni} on port {backend.port} already, and only one device can; "
                f"remove it, or choose another backend.vni or backend.port"
            )


def _addresses(netlink: Rtnetlink) -> Dict[str, List[str]]:
    """Interface names with the IPv4 addresses on them, in the kernel's order, loopback left out."""
    names = dict(socket.if_nameindex())
    found: Dict[str, List[str]] = {}
    for message in netlink.dump(GET_ADDRESS, address_request()):
        index, item = decode_address(message, "")
        address = item.address.split("/")[0]
        if index in names and not address.startswith("127."):
            found.setdefault(names[index], []).append(address)
    return found
