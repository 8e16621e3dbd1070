# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the lab takes from an Ansible inventory: hosts, their addresses, and the ``lab_*`` variables."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import LabError, run
from lab.state import check_name

ADDRESS6 = "cluster_node_address6"
DEFAULT_LAN = "192.0.2.0/24"
DEFAULT_MEMORY_MIB = 512
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Wanted:
    """A lab as an inventory describes it: nodes maps names to addresses inside lan, nodes6 those that have an IPv6
    address to addresses inside lan6. lan6 and gateway6 are empty for a LAN without IPv6."""

    name: str
    lan: str
    gateway: str
    features: tuple[str, ...]
    packages: tuple[str, ...]
    memory: int
    nodes: dict[str, str]
    lan6: str = ""
    gateway6: str = ""
    nodes6: dict[str, str] = field(default_factory=dict)


def read(directory: Path) -> Wanted:
    """Ask ansible-inventory of the running interpreter's environment."""
    command = Path(sys.executable).parent / "ansible-inventory"
    if not command.exists():
        raise LabError(f"{command} is missing; install ansible-core into this virtual environment")
    if not directory.is_dir():
        raise LabError(f"inventory {directory}: no such directory")
    return parse(json.loads(run([str(command), "-i", str(directory), "--list"], env=dict(os.environ))))


def parse(listing: dict[str, Any]) -> Wanted:
    """Turn the output of ``ansible-inventory --list`` into a Wanted; LabError names the bad item."""
    hosts: dict[str, dict[str, Any]] = listing.get("_meta", {}).get("hostvars", {})
    if not hosts:
        raise LabError("the inventory has no hosts")
    shared = next(iter(hosts.values()))
    lan = _network(ipaddress.IPv4Network, shared.get("lab_lan", DEFAULT_LAN), "lab_lan")
    gateway = str(shared.get("lab_gateway", lan[1]))
    nodes = {name: str(values.get("ansible_host", "")) for name, values in sorted(hosts.items())}
    _check(lan, "lab_lan", gateway, nodes, "ansible_host")
    return Wanted(
        name=check_name(str(shared.get("lab_name", "lab"))),
        lan=str(lan),
        gateway=gateway,
        features=(*shared.get("lab_features", ()), *(["ipv6"] if shared.get("lab_lan6") else [])),
        packages=tuple(sorted(set(shared.get("lab_packages", ())))),
        memory=int(shared.get("lab_memory_mib", DEFAULT_MEMORY_MIB)),
        nodes=nodes,
        **_ipv6(shared, hosts),
    )


def _ipv6(shared: dict[str, Any], hosts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The fields of a Wanted for IPv6, none for a LAN without it."""
    given = {name: values.get(ADDRESS6) for name, values in sorted(hosts.items())}
    nodes = {name: str(address) for name, address in given.items() if address}
    if not shared.get("lab_lan6"):
        for name in nodes:
            raise LabError(f"hosts.{name}.{ADDRESS6}: the lab's LAN has no IPv6; set lab_lan6")
        return {}
    lan = _network(ipaddress.IPv6Network, shared["lab_lan6"], "lab_lan6")
    gateway = str(lan[1])
    _check(lan, "lab_lan6", gateway, nodes, ADDRESS6)
    return {"lan6": str(lan), "gateway6": gateway, "nodes6": nodes}


def _check(lan: _Network, name: str, gateway: str, nodes: dict[str, str], variable: str) -> None:
    """Addresses are inside the LAN, and each is one node's alone."""
    owner = name.replace("lan", "gateway")
    _inside(gateway, lan, owner, name)
    owners = {gateway: owner}
    for node, address in nodes.items():
        item = f"hosts.{node}.{variable}"
        _inside(address, lan, item, name)
        if address in owners:
            raise LabError(f"{item}: {address} belongs to {owners[address]} already")
        owners[address] = node


def _network(kind: type[_Network], text: str, item: str) -> _Network:
    try:
        return kind(text)
    except ValueError as error:
        raise LabError(f"{item}: {error}") from None


def _inside(address: str, lan: _Network, item: str, name: str) -> None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != lan.version:
        raise LabError(f"{item}: {address!r} is not an IPv{lan.version} address")
    if parsed not in lan:
        raise LabError(f"{item}: {address} is outside the lab's LAN {lan} ({name})")
