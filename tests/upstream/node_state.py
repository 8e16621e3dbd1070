# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a node's kernel holds, told by the system's tools, in a form that is the same whenever it is made again.

Left out: numbers that the kernel gives out (interface indexes, handles of nftables), what traffic changes (counters,
learnt neighbors, multicast groups of the kernel's own), and limits that depend on the machine. Sorted: every list
whose order the kernel does not promise. Order is kept where it means something: rules of packet filters.
Addresses that flanneld rolls dice for are replaced by fixed ones, and with them everything derived from them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

from tests.kernel.namespaces import Namespace

# Given out by the kernel in the order of creation.
NUMBERS = {"ifindex", "link_index", "link_netnsid", "handle", "index"}
# Limits of drivers, which differ between kernels and numbers of processors.
MACHINE = {
    "num_tx_queues",
    "num_rx_queues",
    "gso_max_size",
    "gso_max_segs",
    "gso_ipv4_max_size",
    "gro_ipv4_max_size",
    "gro_max_size",
    "tso_max_size",
    "tso_max_segs",
    "min_mtu",
    "max_mtu",
    "netns-immutable",
}
FOREVER = {"valid_life_time", "preferred_life_time"}
# Tables of nftables behind the commands iptables and ip6tables, which iptables-save shows better.
_XTABLES = {"raw", "mangle", "nat", "filter", "security"}
_SYSCTLS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


def read(node: Namespace) -> dict[str, Any]:
    links = node.json("ip -d -j link show")
    vxlans = [link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") == "vxlan"]
    return {
        "links": _sorted(_bare(links)),
        "addresses": {link["ifname"]: _sorted(_bare(link["addr_info"])) for link in node.json("ip -j address show")},
        "routes": {family: _sorted(_bare(_routes(node, family))) for family in ("4", "6")},
        "neighbors": _sorted(_bare(node.json("ip -d -j neigh show nud permanent"))),
        "fdb": {name: _sorted(_bare(node.json(f"bridge -d -j fdb show dev {name}"))) for name in vxlans},
        "iptables": _saved(node, "iptables-save"),
        "ip6tables": _saved(node, "ip6tables-save"),
        "nftables": _nftables(node),
        "sysctls": {name: node.out(f"cat /proc/sys/net/{name}").strip() for name in _sysctls(vxlans)},
    }


def _routes(node: Namespace, family: str) -> Any:
    return node.json(f"ip -{family} -d -j route show table all")


def _sysctls(devices: list[str]) -> list[str]:
    return [*_SYSCTLS, *(f"ipv6/conf/{device}/accept_ra" for device in devices)]


def _saved(node: Namespace, command: str) -> list[str]:
    lines = re.sub(r" \[\d+:\d+\]", "", node.out(command)).splitlines()
    return [line for line in lines if not line.startswith("#")]


def _nftables(node: Namespace) -> list[Any]:
    entries = json.loads(node.out("nft -j list ruleset"))["nftables"]
    shown: list[Any] = _bare([entry for entry in entries if not _is_left_out(entry)])
    return shown


def _is_left_out(entry: dict[str, Any]) -> bool:
    ((kind, content),) = entry.items()
    return kind == "metainfo" or content.get("name" if kind == "table" else "table") in _XTABLES


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(entry) for key, entry in value.items() if key not in NUMBERS | MACHINE | FOREVER}
    return [_bare(entry) for entry in value] if isinstance(value, list) else value


def _sorted(entries: list[Any]) -> list[Any]:
    return sorted(entries, key=lambda entry: json.dumps(entry, sort_keys=True))


def mac_of(state: dict[str, Any], device: str) -> str | None:
    return next((str(link["address"]) for link in state["links"] if link["ifname"] == device), None)


def renamed(value: Any, macs: dict[str, str]) -> Any:
    """``value`` with MAC addresses replaced, and with the link-local addresses that the kernel makes of them."""
    text = json.dumps(value)
    for old, new in macs.items():
        text = text.replace(old, new).replace(f'"{link_local(old)}"', f'"{link_local(new)}"')
    return _resorted(json.loads(text))


def _resorted(value: Any) -> Any:
    """Lists that were sorted by their text are sorted again, as the text is another one now."""
    if not isinstance(value, dict):
        return value
    kept = ("iptables", "ip6tables", "nftables")
    return {
        key: _sorted(entry) if isinstance(entry, list) and key not in kept else _resorted(entry)
        for key, entry in value.items()
    }


def link_local(mac: str) -> str:
    """The address of RFC 4291, appendix A."""
    first, *rest = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def common(one: Any, other: Any, inside: bool = False) -> Any:
    """``one`` without the settings of single objects that ``other`` does not know.

    For states of different kernels or tools. The maps around the objects, such as those by device, are kept whole.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        kept = {key for key in one if key in other} if inside else set(one)
        return {key: common(value, other.get(key), inside) for key, value in one.items() if key in kept}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [common(*pair, inside=True) for pair in zip(one, other, strict=True)]
    return one
