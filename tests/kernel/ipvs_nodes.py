# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes with virtual services: documents for them, and what ipvsadm and ip say of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import ipvs_service, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.test_overlay_undo import inside, no_runner

MODULE, DEVICE = "ipvs_service", "fairlead-ipvs"
#: Those that User-mode Linux of Debian 12 has.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
DELETED = {"state": "deleted"}
Args = dict[str, Any]
Apply = Callable[..., Outcome]


def server(address: str, port: int | None = None, **more: Any) -> Args:
    return {"address": address, **({} if port is None else {"port": port}), **more}


def service(address: str, port: int = 80, *servers: Any, **more: Any) -> Args:
    """Real servers are mappings, or addresses with port 8080."""
    listed = [server(each, 8080) if isinstance(each, str) else each for each in servers]
    return {"address": address, "port": port, "servers": listed, **more}


def web(*numbers: int, **more: Any) -> Args:
    """A service with servers 10.244.1.N:8080."""
    return service("10.96.0.80", 80, *(f"10.244.1.{number}" for number in numbers), **more)


def lone_node(netns: Namespaces) -> Namespace:
    """A node with an address of both IP versions on eth0."""
    made = netns("node")
    made.run("ip link add eth0 address 02:00:00:00:00:01 type dummy")
    made.run("ip link set eth0 up")
    made.run("ip address add 192.0.2.1/24 dev eth0")
    made.run("ip address add 2001:db8::1/64 dev eth0 nodad")
    return made


def apply_to(directory: Path, node: Namespace, args: Args, check: bool = False) -> Outcome:
    """What the module does, in this process. Each node has a memory of its own below ``directory``."""
    content = {key: value for key, value in args.items() if key != "state"}
    before, store.DIRECTORY = store.DIRECTORY, str(directory / node.name)
    try:
        with inside(node):
            return ipvs_service.change(content, args.get("state", "overridden"), check, no_runner)
    finally:
        store.DIRECTORY = before


def table(node: Namespace) -> list[str]:
    """Sorted lines of `ipvsadm-save`."""
    return sorted(node.out("ipvsadm-save -n").splitlines())


def addresses(node: Namespace, device: str = DEVICE) -> list[str]:
    """Of a device, sorted; without link-local ones."""
    shown = node.run(f"ip -j address show dev {device}", check=False).stdout
    links = json.loads(shown) if shown.strip() else []
    infos = [info for link in links for info in link.get("addr_info", []) if info["scope"] == "global"]
    return sorted(f"{info['local']}/{info['prefixlen']}" for info in infos)


def dummies(node: Namespace) -> list[str]:
    return sorted(link["ifname"] for link in node.json("ip -j link show type dummy"))


#: Processes are slow to start in a guest, so one starts them all. `ipvsadm-save` is a script around the first.
_SNAPSHOT = (
    "ipvsadm -S -n",
    "ipvsadm -Ln --thresholds",
    "ipvsadm -Ln --timeout",
    "ip -j address show",
    "ip route show table local",
    "ip -6 route show table local",
)


def snapshot(node: Namespace) -> dict[str, Any]:
    """All that the module may touch, and what is next to it."""
    shown = node.out(["sh", "-ec", "; echo =====; ".join(_SNAPSHOT)]).split("=====\n")
    services, limits, times, links, local, local6 = shown
    return {
        "table": sorted(services.splitlines()),
        "limits": sorted(line.split()[:4] for line in limits.splitlines()),
        "times": times,
        "addresses": {
            link["ifname"]: sorted((info["local"], info["prefixlen"]) for info in link["addr_info"])
            for link in json.loads(links)
        },
        "local": sorted(local.splitlines()),
        "local6": sorted(local6.splitlines()),
    }


def operations(outcome: Outcome) -> list[str]:
    """Without that of the file that the module remembers by."""
    return [str(each) for each in outcome.operations if each.item.kind != "file"]


def saved(directory: Path, node: Namespace) -> Path:
    return directory / node.name / f"{MODULE}.json"


def foreign(node: Namespace, lines: Sequence[str]) -> None:
    """Services of somebody else, as lines of ipvsadm."""
    for line in lines:
        node.run(f"ipvsadm {line}")
