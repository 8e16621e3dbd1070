# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What real kube-proxy makes of Service and EndpointSlice objects in mode ipvs, read from the kernel.

kube-apiserver runs in a namespace, kube-proxy in a User-mode Linux guest on a tap device there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.kernel.guest_node import GuestNode
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespaces
from tests.upstream import kube_proxy
from tests.upstream.kubernetes_api import KubernetesApi, Object
from tests.upstream.lan import set_sysctls
from tests.upstream.service_cases import NODE, SERVICE_RANGES

API_ADDRESS = "192.0.2.1"
MEMORY_MIB = 768
STATE_SECONDS = 120
_READ = """
echo =ipvs; ipvsadm-save -n
echo =addresses; ip -o address show dev kube-ipvs0
echo =link; ip -o link show dev kube-ipvs0
echo =ipsets; ipset save
echo =iptables; iptables-save
echo =ip6tables; ip6tables-save
"""
# Everything of kube-proxy's, so that what it made before has no part in what it makes next.
_RESET = """
for family in iptables ip6tables; do for table in nat filter mangle; do
    $family -t $table -F && $family -t $table -X
done; done
ipset destroy
ipvsadm -C
ip link delete kube-ipvs0 2>/dev/null || true
"""


class Oracle:
    """Up when made: an API server with Node object ``NODE``, and a guest that is this node."""

    def __init__(self, netns: Namespaces, directory: Path, kubernetes: Path, etcd: Path) -> None:
        self.directory = directory
        namespace = netns("api")
        set_sysctls(namespace, {"ipv6/conf/default/accept_dad": 0})
        first = next(iter(NODE["interfaces"]))
        host = [f"{API_ADDRESS}/24", "2001:db8::1/64"]
        addresses = NODE["interfaces"][first]
        self.node = GuestNode(UserModeLinux(MEMORY_MIB), namespace, directory, addresses, host, kube_proxy.MODULES)
        self.proxy = kube_proxy.GuestKubeProxy(self.node, kubernetes / "kube-proxy")
        self.api = KubernetesApi(namespace, directory / "api", API_ADDRESS, ",".join(SERVICE_RANGES))
        try:
            self._furnish(first)
            self.api.start(kubernetes, etcd)
            self.api.create(node_object())
        except BaseException:
            self.stop()
            raise

    def _furnish(self, first: str) -> None:
        """The node's other interfaces."""
        for name, addresses in NODE["interfaces"].items():
            if name != first:
                self.node.run(f"ip link add {name} type dummy")
                for address in addresses:
                    self.node.run(f"ip address add {address} dev {name}")
                self.node.run(f"ip link set {name} up")

    def stop(self) -> None:
        self.api.stop()
        self.node.stop()

    def state_of(self, objects: Sequence[Object], **options: Any) -> dict[str, Any]:
        """Kernel state that kube-proxy makes of these objects and Service kubernetes; see ``parsed``.

        ``options`` are fields of KubeProxyConfiguration.
        """
        self.api.delete_services()
        for given in objects:
            self.api.create(given)
        kubeconfig = self.api.kubeconfig(self.directory / "kubeconfig")
        config = kube_proxy.configuration(kubeconfig, NODE["name"], "ipvs", **options)
        try:
            self.proxy.start(kube_proxy.write(self.directory / "kube-proxy.json", config))
            text = self._shell(_READ)
        finally:
            self.proxy.stop()
        self._shell(_RESET)
        return parsed(text)

    def _shell(self, script: str) -> str:
        return self.node.run(["sh", "-ec", script], timeout=STATE_SECONDS).stdout


def parsed(text: str) -> dict[str, Any]:
    """Kernel state of what the commands printed, in a form for comparison.

    ``ipvs``: lines of ipvsadm-save, sorted. ``addresses`` of kube-ipvs0 with their lengths, sorted. ``up``: whether the
    device is. ``ipsets``: by name, type with options, and members, sorted. ``iptables``, ``ip6tables``: by table, lines
    of iptables-save without counters and comments, of the chains with KUBE in their line.
    """
    sections = {name: body.splitlines() for name, _, body in (part.partition("\n") for part in text.split("\n="))}
    sections = {name.lstrip("="): body for name, body in sections.items()}
    return {
        "ipvs": sorted(line.strip() for line in sections["ipvs"]),
        "addresses": sorted(line.split()[3] for line in sections["addresses"] if " fe80:" not in line),
        "up": ",UP" in sections["link"][0],
        "ipsets": _ipsets(sections["ipsets"]),
        "iptables": _rules(sections["iptables"]),
        "ip6tables": _rules(sections["ip6tables"]),
    }


def _ipsets(lines: Iterable[str]) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    for line in lines:
        verb, name, *rest = line.split()
        if verb == "create":
            # Chance, and what only newer kernels have.
            words = dict(zip(rest[1::2], rest[2::2], strict=False))
            options = {key: value for key, value in words.items() if key not in ("initval", "bucketsize")}
            sets[name] = {"type": rest[0], "options": options, "members": []}
        else:
            sets[name]["members"].append(" ".join(rest))
    for entry in sets.values():
        entry["members"].sort()
    return dict(sorted(sets.items()))


def _rules(lines: Iterable[str]) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("*"):
            table = tables.setdefault(line[1:], [])
        elif line.startswith((":", "-A")) and "KUBE-" in line:
            table.append(re.sub(r" \[\d+:\d+\]$", "", line))
    return {name: _settled(table) for name, table in sorted(tables.items()) if table}


def _settled(table: list[str]) -> list[str]:
    """Rules for single services come in an order by chance: among themselves they are sorted."""
    single = iter(sorted(line for line in table if " --vaddr " in line))
    return [next(single) if " --vaddr " in line else line for line in table]


def node_object() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE["name"], "labels": NODE["labels"]},
        "spec": {"podCIDR": NODE["podCIDRs"][0], "podCIDRs": NODE["podCIDRs"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in NODE["addresses"]]},
    }
