# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A mixed overlay: nodes n1 and n2 run real flanneld, nodes n3 and n4 our modules, all over one etcd.

flanneld follows etcd by itself. Ours follow when the modules run again (``refresh``), as a playbook does it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import json
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace
from tests.upstream.flanneld import Flanneld
from tests.upstream.lan import Lan, wait_until

CLUSTER, NETWORK, DEVICE = "ring", "10.244.0.0/16", "flannel.1"
CONFIG = {"network": NETWORK, "backend": {"type": "vxlan", "vni": 1, "port": 8472}}
# flanneld's watch answers within a fraction of a second.
FOLLOW_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Member:
    """A node as its lease describes it to the others."""

    subnet: str
    address: str
    mac: str

    @property
    def base(self) -> str:
        return self.subnet.partition("/")[0]

    @property
    def pod_address(self) -> str:
        return str(ipaddress.ip_network(self.subnet)[2])


@dataclasses.dataclass(frozen=True)
class Tables:
    """What hangs on the VXLAN device: neighbors (address, MAC), FDB entries (MAC, address), routes (subnet, via)."""

    neighbors: list[tuple[str, str]]
    fdb: list[tuple[str, str]]
    routes: list[tuple[str, str]]


def tables(node: Namespace) -> Tables:
    neighbors = node.json(f"ip -4 -j neigh show dev {DEVICE}")
    fdb = node.json(f"bridge -j fdb show dev {DEVICE}")
    routes = node.json(f"ip -4 -j route show dev {DEVICE}")
    assert all(entry["state"] == ["PERMANENT"] for entry in neighbors), neighbors
    assert all(entry["state"] == "permanent" and entry["flags"] == ["self"] for entry in fdb), fdb
    assert all(entry["flags"] == ["onlink"] for entry in routes), routes
    return Tables(
        sorted((entry["dst"], entry["lladdr"]) for entry in neighbors),
        sorted((entry["mac"], entry["dst"]) for entry in fdb),
        sorted((entry["dst"], entry["gateway"]) for entry in routes),
    )


def expected(others: list[Member], leftovers: list[tuple[str, str]]) -> Tables:
    """Exactly one entry of each kind for each of the others; ``leftovers`` are FDB entries that nobody needs."""
    return Tables(
        sorted((other.base, other.mac) for other in others),
        sorted([*((other.mac, other.address) for other in others), *leftovers]),
        sorted((other.subnet, other.base) for other in others),
    )


class Ring:
    """``flanneld`` and ``ours`` hold nodes by number; ``pods`` one pod a node, with the third address of its subnet.

    ``leftovers`` are, by number of the node, FDB entries that flanneld is known to leave behind.
    """

    def __init__(self, lan: Lan, flanneld: Path, run_module: RunModule) -> None:
        self.lan, self._program, self._run_module = lan, flanneld, run_module
        self.nodes: dict[int, Namespace] = {}
        self.addresses = {number: f"192.0.2.{number}" for number in (1, 2, 3, 4)}
        self.macs = {number: vtep_mac(CLUSTER, f"n{number}") for number in (3, 4)}
        self.flanneld: dict[int, Flanneld] = {}
        self.ours: list[int] = []
        self.pods: dict[int, Namespace] = {}
        self.leftovers: dict[int, list[tuple[str, str]]] = {}

    def start_ours(self) -> None:
        self.ours = [3, 4]
        self.nodes |= {number: self.lan.node(number) for number in self.ours}
        self.refresh()

    def start_flanneld(self) -> None:
        for number in (1, 2):
            self.flanneld[number] = Flanneld(self._program, self.lan, number)
            self.nodes[number] = self.flanneld[number].node
            self.flanneld[number].start()

    def start_pods(self) -> None:
        self.pods = {number: self._pod(number, member) for number, member in self.members().items()}

    def _pod(self, number: int, member: Member) -> Namespace:
        """Attached like the bridge plugin does it: gateway on the node, MTU of the overlay."""
        pod, gateway = self.lan.netns(f"pod{number}"), ipaddress.ip_network(member.subnet)[1]
        self.lan.netns.link(self.nodes[number], "pod0", pod, "eth0")
        self.nodes[number].run(f"ip address add {gateway}/24 dev pod0")
        pod.run("ip link set eth0 mtu 1450")
        pod.run(f"ip address add {member.pod_address}/24 dev eth0")
        pod.run(f"ip route add default via {gateway}")
        return pod

    def stop(self) -> None:
        for daemon in self.flanneld.values():
            daemon.stop()

    def refresh(self) -> None:
        """Run our modules on all of our nodes."""
        for number in self.ours:
            leases = self.module(number, "overlay_lease", **self.lease_arguments(number))
            own, peers = leases["own"], leases["peers"]
            self.module(number, "overlay_network", network=NETWORK, node=own, peers=peers)
            # Both ways of filtering, as nodes of one cluster may have different ones.
            backend = "iptables" if number == 3 else "nftables"
            self.module(number, "masquerade", network=NETWORK, subnet=own["subnet"], backend=backend)

    def lease_arguments(self, number: int) -> dict[str, Any]:
        nodes = [
            {"name": f"n{ours}", "address": self.addresses[ours], "mac": self.macs[ours]}
            for ours in sorted({*self.ours, number})
        ]
        return {
            "endpoints": self.lan.etcd.endpoints,
            **self.lan.etcd.tls,
            "config": CONFIG,
            "cluster_name": CLUSTER,
            "nodes": nodes,
            "node": f"n{number}",
            # How long a busy machine takes to answer is not what is tested.
            "timeout": 30,
        }

    def module(self, number: int, name: str, **arguments: Any) -> dict[str, Any]:
        return self._run_module(name, arguments, netns=self.nodes[number])

    def members(self) -> dict[int, Member]:
        """By number, as etcd holds them. Each node that is there has exactly one lease."""
        numbers = {address: number for number, address in self.addresses.items()}
        found = {}
        for name, lease in self.lan.leases().items():
            value = json.loads(lease.value)
            assert value["BackendType"] == "vxlan" and value["BackendData"]["VNI"] == 1, value
            number = numbers[value["PublicIP"]]
            assert number not in found, f"two leases of n{number}"
            mac = value["BackendData"]["VtepMAC"]
            found[number] = Member(name.replace("-", "/"), value["PublicIP"], mac)
        return found

    def lease_name(self, number: int) -> str:
        """Last part of the key of a node's lease."""
        return self.members()[number].subnet.replace("/", "-")

    def present(self) -> set[int]:
        return {*self.ours, *(number for number, daemon in self.flanneld.items() if daemon.process)}

    def check(self) -> None:
        """All nodes agree with etcd and so with each other, and all pods reach all pods as themselves."""
        members = self.members()
        assert set(members) == self.present()
        for number in members:
            # flanneld is given time to follow; its tables are looked at below, whatever they are by then.
            with contextlib.suppress(AssertionError):
                wait_until(lambda number=number: self._agrees(number, members), "", FOLLOW_SECONDS)  # type: ignore[misc]
            assert tables(self.nodes[number]) == self._expected(number, members), f"on n{number}"
            assert self._device(number) == (members[number].mac, [f"{members[number].base}/32"])
        self._check_packets(members)

    def _agrees(self, number: int, members: dict[int, Member]) -> bool:
        return tables(self.nodes[number]) == self._expected(number, members)

    def _expected(self, number: int, members: dict[int, Member]) -> Tables:
        others = [member for other, member in members.items() if other != number]
        return expected(others, self.leftovers.get(number, []))

    def _device(self, number: int) -> tuple[str, list[str]]:
        """MAC address and IPv4 addresses of the VXLAN device."""
        (link,) = self.nodes[number].json(f"ip -4 -j address show dev {DEVICE}")
        (shown,) = self.nodes[number].json(f"ip -j link show dev {DEVICE}")
        return shown["address"], [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]]

    def _check_packets(self, members: dict[int, Member]) -> None:
        with contextlib.ExitStack() as servers:
            for number in members:
                servers.enter_context(packets.server(self.pods[number]))
            for here, there in itertools.permutations(members, 2):
                seen = packets.ask(self.pods[here], members[there].pod_address, size=1450)
                assert seen == members[here].pod_address, f"pod of n{there}, asked by the pod of n{here}, saw {seen}"
