# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What to tell where a device does not get its UDP port. The kernel refuses it when the device goes up, or when one
that is up gets another port."""

from __future__ import annotations

import contextlib
import errno
from typing import Tuple

from .._model.backend import VXLAN, WIREGUARD
from .._model.datapath import LinkUp
from .._model.item import Item
from .._model.wireguard import WIREGUARD_DEVICE6, WireguardDevice
from . import links
from .rtnetlink import RefusedError, Rtnetlink
from .wireguard import Wireguard


def busy_port(netlink: Rtnetlink, item: Item, error: Exception) -> str:
    """Port, device and advice; "" where the error is about something else."""
    if not isinstance(error, RefusedError) or error.code != errno.EADDRINUSE:
        return ""
    device, port, option = "", 0, ""
    # The hint is not worth another error.
    with contextlib.suppress(RefusedError, OSError):
        device, port, option = _port_of(netlink, item)
    if not port:
        return ""
    return (
        f": something else on this node has UDP port {port}, on which {device} listens. `ss -lunp 'sport = :{port}'` "
        "shows what, without a process when it is a device (another VXLAN or WireGuard device). Stop or remove it, or "
        f"choose another {option}"
    )


def _port_of(netlink: Rtnetlink, item: Item) -> Tuple[str, int, str]:
    """Device, port, and what the port is called as an option. Raises RefusedError."""
    if isinstance(item, WireguardDevice):
        return item.name, item.listen_port, _option(item.name)
    link = links.read_link(netlink, item.device) if isinstance(item, LinkUp) else None
    if link is None:
        return "", 0, ""
    name, kind = link.get_attr("IFLA_IFNAME"), links.kind_of(link)
    if kind == VXLAN:
        return name, links.data_of(link).get("IFLA_VXLAN_PORT", 0), "backend.port"
    if kind == WIREGUARD:
        with Wireguard() as wireguard:
            return name, wireguard.read(name).listen_port, _option(name)
    return name, 0, ""


def _option(device: str) -> str:
    return "backend.listen_port6" if device == WIREGUARD_DEVICE6 else "backend.listen_port"
