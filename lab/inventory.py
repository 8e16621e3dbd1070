# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What the lab takes from an Ansible inventory: hosts, their addresses, and the ``lab_*`` variables."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError, run
from lab.state import check_name

DEFAULT_LAN = "192.0.2.0/24"
DEFAULT_MEMORY_MIB = 512


@dataclass(frozen=True)
class Wanted:
    """A lab as an inventory describes it: nodes maps names to addresses inside lan."""

    name: str
    lan: str
    gateway: str
    features: tuple[str, ...]
    packages: tuple[str, ...]
    memory: int
    nodes: dict[str, str]


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
    lan = _network(shared.get("lab_lan", DEFAULT_LAN))
    gateway = str(shared.get("lab_gateway", lan[1]))
    _inside(gateway, lan, "lab_gateway")
    nodes = {name: str(values.get("ansible_host", "")) for name, values in sorted(hosts.items())}
    owners: dict[str, str] = {gateway: "lab_gateway"}
    for name, address in nodes.items():
        _inside(address, lan, f"hosts.{name}.ansible_host")
        if address in owners:
            raise LabError(f"hosts.{name}.ansible_host: {address} belongs to {owners[address]} already")
        owners[address] = name
    return Wanted(
        name=check_name(str(shared.get("lab_name", "lab"))),
        lan=str(lan),
        gateway=gateway,
        features=tuple(shared.get("lab_features", ())),
        packages=tuple(sorted(set(shared.get("lab_packages", ())))),
        memory=int(shared.get("lab_memory_mib", DEFAULT_MEMORY_MIB)),
        nodes=nodes,
    )


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise LabError(f"lab_lan: {error}") from None


def _inside(address: str, lan: ipaddress.IPv4Network, item: str) -> None:
    try:
        inside = ipaddress.IPv4Address(address) in lan
    except ValueError:
        raise LabError(f"{item}: {address!r} is not an IPv4 address") from None
    if not inside:
        raise LabError(f"{item}: {address} is outside the lab's LAN {lan} (lab_lan)")
