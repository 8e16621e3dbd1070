# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Captures of what real flanneld makes of two nodes; kept in tests/fixtures/flannel, made by scripts/capture-flannel.

Chance is taken out where flanneld has a choice (the range of subnets is one subnet while a node gets its lease), and
otherwise by naming: the MAC addresses that flanneld made up are written as 02:f1:00:00:FF:NN, where FF is 04 or 06 for
the device's underlay and NN the node.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernel.namespaces import Namespace, Namespaces
from tests.upstream import builds, node_state
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan
from tests.waiting import START_SECONDS, wait_until

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "flannel"
NODES = (1, 2)
# The newest: what flanneld writes does not depend on it.
ETCD = builds.etcd("3.7")
# Rules are looked after every 5 s, peers follow an event: what has not changed for this long is all.
QUIET_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration. ``backend`` is the section Backend of flannel's network configuration."""

    backend: dict[str, Any]
    dual: bool = False
    nftables: bool = False

    def config(self, only: int | None = None) -> dict[str, Any]:
        """Network configuration; with ``only``, that node's subnet is the only one to be had."""
        first, last = (only, only) if only else (NODES[0], NODES[-1])
        config: dict[str, Any] = {"EnableNFTables": True} if self.nftables else {}
        config |= {"Network": "10.244.0.0/16", "SubnetLen": 24}
        config |= {"SubnetMin": f"10.244.{first}.0", "SubnetMax": f"10.244.{last}.0"}
        if self.dual:
            config |= {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48", "IPv6SubnetLen": 64}
            config |= {"IPv6SubnetMin": f"fd00:10:244:{first}::", "IPv6SubnetMax": f"fd00:10:244:{last}::"}
        return {**config, "Backend": self.backend}

    @property
    def subnets(self) -> list[str]:
        """Subnets of all nodes, as routes to them are shown."""
        v6 = [f"fd00:10:244:{number}::/64" for number in NODES] if self.dual else []
        return [*(f"10.244.{number}.0/24" for number in NODES), *v6]


VXLAN = {"Type": "vxlan", "VNI": 1, "Port": 8472}
DIRECT = {**VXLAN, "DirectRouting": True}
HOST_GW = {"Type": "host-gw"}
CASES = {
    "vxlan-ipv4": Case(VXLAN),
    "vxlan-ipv4-nftables": Case(VXLAN, nftables=True),
    "vxlan-ipv4-direct": Case(DIRECT),
    "vxlan-ipv4-options": Case({"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 1400, "GBP": True, "Learning": True}),
    "vxlan-dual": Case(VXLAN, dual=True),
    "vxlan-dual-nftables": Case(VXLAN, dual=True, nftables=True),
    "vxlan-dual-direct": Case(DIRECT, dual=True),
    "host-gw-ipv4": Case(HOST_GW),
    "host-gw-dual": Case(HOST_GW, dual=True),
}


def capture(
    case: Case, netns: Namespaces, directory: Path, awaited: Callable[[dict[str, Any]], bool] = lambda _: True
) -> dict[str, Any]:
    """Start two nodes, wait until all is there, and tell what is. Raises builds.MissingError where Go is missing.

    What comes to be late is not missed by those who know what is ``awaited``.
    """
    program = builds.built(builds.FLANNEL) / "flanneld"
    lan = Lan(netns, directory)
    daemons: list[Flanneld] = []
    try:
        lan.start_etcd(builds.built(ETCD))
        for number in NODES:
            lan.configure(case.config(number))
            daemons.append(Flanneld(program, lan, number))
            daemons[-1].start()
        lan.configure(case.config())
        end = time.monotonic() + START_SECONDS
        while True:
            states = [_settled(case, daemon) for daemon in daemons]
            document = _document(case, lan, daemons, states)
            if awaited(document) or time.monotonic() > end:
                return document
    finally:
        for daemon in daemons:
            daemon.stop()
        lan.stop()


def _settled(case: Case, daemon: Flanneld) -> dict[str, Any]:
    wait_until(lambda: _reaches(case, daemon.node), f"{daemon.node.name} has routes to all subnets")
    while True:
        before = node_state.read(daemon.node)
        time.sleep(QUIET_SECONDS)
        if node_state.read(daemon.node) == before:
            return before


def _reaches(case: Case, node: Namespace) -> bool:
    text = node.out("ip -4 route show table all") + node.out("ip -6 route show table all")
    # Every subnet but its own, once.
    return sum(text.count(f"{subnet} ") for subnet in case.subnets) == len(case.subnets) * (len(NODES) - 1) // 2


def _document(case: Case, lan: Lan, daemons: list[Flanneld], states: list[dict[str, Any]]) -> dict[str, Any]:
    macs = fixed_macs(states)
    leases = {name: {"value": lease.value, "ttl": lease.granted} for name, lease in lan.leases().items()}
    nodes = {
        f"n{number}": {**node_state.renamed(state, macs), "subnet_env": daemon.subnet_env.read_text().splitlines()}
        for number, daemon, state in zip(NODES, daemons, states, strict=True)
    }
    config = json.dumps(case.config(), separators=(",", ":"))
    return {
        "made_with": versions(daemons[0].node),
        "config": config,
        "leases": _in_text(leases, macs),
        "nodes": nodes,
    }


def fixed_macs(states: list[dict[str, Any]]) -> dict[str, str]:
    """What each MAC address of flannel's devices is written as."""
    names: dict[str, str] = {}
    for number, state in zip(NODES, states, strict=True):
        for link in state["links"]:
            if link["ifname"].startswith("flannel"):
                family = "06" if link["ifname"].startswith("flannel-v6") else "04"
                names[link["address"]] = f"02:f1:00:00:{family}:{number:02x}"
    return names


def _in_text(leases: dict[str, Any], macs: dict[str, str]) -> Any:
    text = json.dumps(leases)
    for old, new in macs.items():
        text = text.replace(old, new)
    return json.loads(text)


def versions(node: Namespace) -> dict[str, str]:
    """What a difference between two captures may come from."""
    return {
        "flannel": builds.FLANNEL_VERSION,
        "etcd": builds.pinned(ETCD.name, "go.etcd.io/etcd/server/v3"),
        "kernel": ".".join(node.out("uname -r").split(".")[:2]),
        "iproute2": node.out("ip -V").split()[2].rstrip(","),
        "iptables": node.out("iptables --version").strip(),
        "nftables": node.out("nft --version").split()[1],
    }


def stored(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return document


def write(name: str, document: dict[str, Any], directory: Path = FIXTURES) -> Path:
    """One object a line, so that a difference between two versions can be read."""
    path = directory / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_pretty(document) + "\n", encoding="utf-8")
    return path


def _pretty(value: Any, depth: int = 0) -> str:
    flat = json.dumps(value)
    if not isinstance(value, (dict, list)) or len(flat) + depth <= 100:
        return flat
    inner = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {_pretty(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(inner + _pretty(entry, depth + 1) for entry in value) + "\n" + " " * depth + "]"
