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
from tests.upstream.lan import Lan
from tests.waiting import wait_until

CLUSTER = "ring"
BACKEND = {"type": "vxlan", "vni": 1, "port": 8472}
# flanneld's watch answers within a fraction of a second, on a busy machine later.
FOLLOW_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Version:
    """How nodes, devices and fields are called in one IP version."""

    suffix: str
    network: str
    device: str
    lan: str
    lan_length: int
    length: int
    # The largest packet that fits through the device.
    mtu: int


IPV4 = Version("", "10.244.0.0/16", "flannel.1", "192.0.2.", 24, 32, 1450)
IPV6 = Version("6", "fd00:10:244::/48", "flannel-v6.1", "2001:db8::", 64, 128, 1430)


@dataclasses.dataclass(frozen=True)
class Half:
    """A node as its lease describes it to the others, in one IP version."""

    subnet: str
    address: str
    mac: str

    @property
    def base(self) -> str:
        return self.subnet.partition("/")[0]

    @property
    def pod_address(self) -> str:
        return str(ipaddress.ip_network(self.subnet)[2])


Member = dict[Version, Half]


@dataclasses.dataclass(frozen=True)
class Tables:
    """What hangs on the VXLAN device: neighbors (address, MAC), FDB entries (MAC, address), routes (subnet, via)."""

    neighbors: list[tuple[str, str]]
    fdb: list[tuple[str, str]]
    routes: list[tuple[str, str]]


def tables(node: Namespace, version: Version) -> Tables:
    ip = "ip -6 -j" if version is IPV6 else "ip -4 -j"
    neighbors = node.json(f"{ip} neigh show dev {version.device} nud permanent")
    fdb = node.json(f"bridge -j fdb show dev {version.device}")
    routes = [entry for entry in node.json(f"{ip} route show dev {version.device}") if "gateway" in entry]
    assert all(entry["state"] == "permanent" and entry["flags"] == ["self"] for entry in fdb), fdb
    assert all(entry["flags"] == ["onlink"] for entry in routes), routes
    return Tables(
        sorted((entry["dst"], entry["lladdr"]) for entry in neighbors),
        sorted((entry["mac"], entry["dst"]) for entry in fdb),
        sorted((entry["dst"], entry["gateway"]) for entry in routes),
    )


def expected(others: list[Half], leftovers: list[tuple[str, str]]) -> Tables:
    """Exactly one entry of each kind for each of the others; ``leftovers`` are FDB entries that nobody needs."""
    return Tables(
        sorted((other.base, other.mac) for other in others),
        sorted([*((other.mac, other.address) for other in others), *leftovers]),
        sorted((other.subnet, other.base) for other in others),
    )


class Ring:
    """``flanneld`` and ``ours`` hold nodes by number; ``pods`` one pod a node, with the third address of its subnets.

    ``versions`` is IPv4, or with dual stack both. ``leftovers`` are, by number of the node and IP version, FDB entries
    that flanneld is known to leave behind.
    """

    def __init__(self, lan: Lan, flanneld: Path, run_module: RunModule, versions: tuple[Version, ...]) -> None:
        self.lan, self._program, self._run_module, self.versions = lan, flanneld, run_module, versions
        self.nodes: dict[int, Namespace] = {}
        #: The last part of each node's addresses.
        self.hosts = {number: number for number in (1, 2, 3, 4)}
        self.macs = {number: vtep_mac(CLUSTER, f"n{number}") for number in (3, 4)}
        self.flanneld: dict[int, Flanneld] = {}
        self.ours: list[int] = []
        self.pods: dict[int, Namespace] = {}
        self.leftovers: dict[tuple[int, Version], list[tuple[str, str]]] = {}

    @property
    def networks(self) -> dict[str, str]:
        return {f"network{version.suffix}": version.network for version in self.versions}

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
        """Attached like the bridge plugin does it: gateways on the node, MTU of the overlay."""
        pod, node = self.lan.netns(f"pod{number}"), self.nodes[number]
        self.lan.netns.link(node, "pod0", pod, "eth0")
        pod.run(f"ip link set eth0 mtu {min(version.mtu for version in self.versions)}")
        for half in member.values():
            subnet = ipaddress.ip_network(half.subnet)
            without_detection = "nodad" if subnet.version == 6 else ""
            node.run(f"ip address add {subnet[1]}/{subnet.prefixlen} dev pod0 {without_detection}")
            pod.run(f"ip address add {half.pod_address}/{subnet.prefixlen} dev eth0 {without_detection}")
            pod.run(f"ip route add default via {subnet[1]}")
        return pod

    def stop(self) -> None:
        for daemon in self.flanneld.values():
            daemon.stop()

    def refresh(self) -> None:
        """Run our modules on all of our nodes."""
        for number in self.ours:
            leases = self.module(number, "overlay_lease", **self.lease_arguments(number))
            own = leases["own"]
            self.module(number, "overlay_network", **self.networks, node=own, peers=leases["peers"])
            subnets = {f"subnet{version.suffix}": own[f"subnet{version.suffix}"] for version in self.versions}
            # Both ways of filtering, as nodes of one cluster may have different ones.
            backend = "iptables" if number == 3 else "nftables"
            self.module(number, "masquerade", **self.networks, **subnets, backend=backend)

    def lease_arguments(self, number: int) -> dict[str, Any]:
        return {
            "endpoints": self.lan.etcd.endpoints,
            **self.lan.etcd.tls,
            "config": {**self.networks, "backend": BACKEND},
            "cluster_name": CLUSTER,
            "nodes": [self._declared(ours) for ours in sorted({*self.ours, number})],
            "node": f"n{number}",
            # How long a busy machine takes to answer is not what is tested.
            "timeout": 30,
        }

    def _declared(self, number: int) -> dict[str, str]:
        addresses = {f"address{each.suffix}": f"{each.lan}{self.hosts[number]}" for each in self.versions}
        return {"name": f"n{number}", "mac": self.macs[number], **addresses}

    def module(self, number: int, name: str, **arguments: Any) -> dict[str, Any]:
        return self._run_module(name, arguments, netns=self.nodes[number])

    def members(self) -> dict[int, Member]:
        """By number, as etcd holds them. Each node that is there has exactly one lease."""
        numbers = {f"{IPV4.lan}{host}": number for number, host in self.hosts.items()}
        found = {}
        for name, lease in self.lan.leases().items():
            value = json.loads(lease.value)
            number = numbers[value["PublicIP"]]
            assert number not in found, f"two leases of n{number}"
            found[number] = self._member(name, value)
        return found

    def _member(self, name: str, value: dict[str, Any]) -> Member:
        halves = name.replace("-", "/").split("&")
        assert len(halves) == len(self.versions) and value["BackendType"] == "vxlan", (name, value)
        member = {}
        for version, subnet in zip(self.versions, halves, strict=True):
            data = value["BackendV6Data" if version is IPV6 else "BackendData"]
            assert data["VNI"] == 1, value
            address = value["PublicIPv6" if version is IPV6 else "PublicIP"]
            member[version] = Half(subnet, address, data["VtepMAC"])
        return member

    def lease_name(self, number: int) -> str:
        """Last part of the key of a node's lease."""
        return "&".join(half.subnet.replace("/", "-") for half in self.members()[number].values())

    def present(self) -> set[int]:
        return {*self.ours, *(number for number, daemon in self.flanneld.items() if daemon.process)}

    def check(self) -> None:
        """All nodes agree with etcd and so with each other, and all pods reach all pods as themselves."""
        members = self.members()
        assert set(members) == self.present()
        for number, version in itertools.product(members, self.versions):
            # flanneld is given time to follow; its tables are looked at below, whatever they are by then.
            with contextlib.suppress(AssertionError):
                wait_until(lambda at=(number, version): self._agrees(*at, members), "", FOLLOW_SECONDS)  # type: ignore[misc]
            wanted, half = self._expected(number, version, members), members[number][version]
            assert tables(self.nodes[number], version) == wanted, f"on n{number}"
            assert self._device(number, version) == (half.mac, [f"{half.base}/{version.length}"])
        self._check_packets(members)

    def _agrees(self, number: int, version: Version, members: dict[int, Member]) -> bool:
        return tables(self.nodes[number], version) == self._expected(number, version, members)

    def _expected(self, number: int, version: Version, members: dict[int, Member]) -> Tables:
        others = [member[version] for other, member in members.items() if other != number]
        return expected(others, self.leftovers.get((number, version), []))

    def _device(self, number: int, version: Version) -> tuple[str, list[str]]:
        """MAC address and addresses of the VXLAN device."""
        family = "-6" if version is IPV6 else "-4"
        (link,) = self.nodes[number].json(f"ip {family} -j address show dev {version.device} scope global")
        (shown,) = self.nodes[number].json(f"ip -j link show dev {version.device}")
        return shown["address"], [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"] if entry]

    def _check_packets(self, members: dict[int, Member]) -> None:
        with contextlib.ExitStack() as servers:
            for number in members:
                servers.enter_context(packets.server(self.pods[number]))
            for (here, there), version in itertools.product(itertools.permutations(members, 2), self.versions):
                size = min(each.mtu for each in self.versions)
                seen = packets.ask(self.pods[here], members[there][version].pod_address, size=size)
                wanted = members[here][version].pod_address
                assert seen == wanted, f"pod of n{there}, asked by the pod of n{here}, saw {seen}"
