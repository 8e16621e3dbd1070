# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Two nodes on a LAN with a pod each, and a client outside. The first node has services, by module cluster_service.

n1 192.0.2.11 has p1 10.244.1.2, n2 192.0.2.12 has p2 10.244.2.2. The client, 192.0.2.9, routes to n1
what services have. The same of IPv6. All of one node's state is seen from outside, by `snapshot`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import store
from ansible_collections.fairlead.cluster.plugins.module_utils._desired.cluster_service import change
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import HALVES, MULTI
from tests.kernel.test_overlay_undo import inside
from tests.manifests import Object, endpoint, endpoint_slice, service

DEVICE = "fairlead-svc"
CLIENT, CLIENT6 = "192.0.2.9", "2001:db8::9"
NODE, NODE6 = "192.0.2.11", "2001:db8::11"
#: What p1 and p2 see of a client that n1 masquerades: its address on the link to them.
TO_P1, TO_P2 = "10.244.1.1", NODE
TO_P1_6, TO_P2_6 = "fd00:10:244:1::1", NODE6
P1, P2, P1_6, P2_6 = "10.244.1.2", "10.244.2.2", "fd00:10:244:1::2", "fd00:10:244:2::2"
_ROUTED = ("10.96.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "fd00:10:96::/112", "2001:db8:80::/48")
Args = dict[str, Any]
# Chains and tables of somebody else, as lines of iptables-restore and of nft.
FOREIGN_IPTABLES = """*nat
:KUBE-SERVICES - [0:0]
:OTHER - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A POSTROUTING -s 198.18.0.0/15 -j OTHER
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A INPUT -s 198.18.0.1/32 -j DROP
-A FORWARD -j KUBE-FORWARD
COMMIT
"""


class Site:
    def __init__(self, netns: Namespaces) -> None:
        self.lan, self.n1, self.n2, self.client = (netns(name) for name in ("lan", "n1", "n2", "client"))
        self.p1, self.p2 = netns("p1"), netns("p2")
        for namespace in netns.made:
            _set(namespace, "ipv6/conf/all/accept_dad", "0")
            _set(namespace, "ipv6/conf/default/accept_dad", "0")
        _batch(self.lan, "link add br0 type bridge", "link set br0 up")
        for namespace, last in ((self.n1, 11), (self.n2, 12), (self.client, 9)):
            netns.link(namespace, "eth0", self.lan, f"port{last}")
            _batch(self.lan, f"link set port{last} master br0")
            _addresses(namespace, "eth0", f"192.0.2.{last}/24", f"2001:db8::{last}/64")
        for number, node, pod in ((1, self.n1, self.p1), (2, self.n2, self.p2)):
            netns.link(pod, "eth0", node, "pod0")
            _addresses(node, "pod0", f"10.244.{number}.1/24", f"fd00:10:244:{number}::1/64")
            _addresses(pod, "eth0", f"10.244.{number}.2/24", f"fd00:10:244:{number}::2/64")
            _batch(pod, f"route add default via 10.244.{number}.1", f"route add default via fd00:10:244:{number}::1")
            _set(node, "ipv4/ip_forward", "1")
            _set(node, "ipv6/conf/all/forwarding", "1")
            _set(node, "ipv4/vs/conntrack", "1", missing_ok=True)
            # Refusals by the dozen are told all.
            _set(node, "ipv4/icmp_ratelimit", "0")
            _set(node, "ipv6/icmp/ratelimit", "0")
        for number, node in ((2, self.n1), (1, self.n2)):
            via, via6 = f"192.0.2.1{number}", f"2001:db8::1{number}"
            _batch(node, f"route add 10.244.{number}.0/24 via {via}", f"route add fd00:10:244:{number}::/64 via {via6}")
        _batch(self.client, *(f"route add {each} via {NODE6 if ':' in each else NODE}" for each in _ROUTED))


def _batch(namespace: Namespace, *lines: str) -> None:
    namespace.run("ip -batch -", data="\n".join(lines))


def _addresses(namespace: Namespace, device: str, address: str, address6: str) -> None:
    _batch(namespace, f"address add {address} dev {device}", f"address add {address6} dev {device} nodad")


def _set(namespace: Namespace, key: str, value: str, missing_ok: bool = False) -> None:
    quietly = f"[ ! -e /proc/sys/net/{key} ] || " if missing_ok else ""
    namespace.run(["sh", "-c", f"{quietly}echo {value} > /proc/sys/net/{key}"])


def slices(name: str, ports: Sequence[Object], *pods: int) -> list[Object]:
    """Endpoints of both IP versions in pods of these numbers."""
    prefixes = {"IPv4": "10.244.{}.2", "IPv6": "fd00:10:244:{}::2"}
    return [
        endpoint_slice(
            *(endpoint(prefix.format(pod), f"n{pod}") for pod in pods),
            of=name,
            suffix=family.lower(),
            addressType=family,
            ports=list(ports),
        )
        for family, prefix in prefixes.items()
    ]


def everywhere(name: str, last: int, pods: Sequence[int] = (1, 2), sctp: bool = False, **spec: Any) -> list[Object]:
    """A Service by all ways, of both IP versions. Number 80 has cluster IPs 10.96.0.80 and fd00:10:96::80, external IPs
    198.51.100.80 and 2001:db8:80::80, balancer 203.0.113.80 and 2001:db8:80:1::80, ports 80 (TCP) and 53 (UDP), node
    ports 30080 and 31080; with SCTP, port 99 and 32080."""
    protocols = [("http", "TCP", 80, 30000), ("dns", "UDP", 53, 31000), *([("sctp", "SCTP", 99, 32000)] * sctp)]
    ports = [
        {"name": word, "protocol": protocol, "port": port, "nodePort": base + last}
        for word, protocol, port, base in protocols
    ]
    ingress = [{"ip": f"203.0.113.{last}"}, {"ip": f"2001:db8:80:1::{last}"}]
    made = service(
        name,
        **{
            "type": "LoadBalancer",
            "clusterIP": f"10.96.0.{last}",
            "clusterIPs": [f"10.96.0.{last}", f"fd00:10:96::{last}"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "externalIPs": [f"198.51.100.{last}", f"2001:db8:80::{last}"],
            "status": {"loadBalancer": {"ingress": ingress}},
            "ports": ports,
            **spec,
        },
    )
    targets = [{"name": word, "protocol": protocol, "port": 8080} for word, protocol, *_rest in protocols]
    return [made, *slices(name, targets, *pods)]


def document(way: str, *objects: Object, **node: Any) -> Args:
    """For n1, with the rules held by one way."""
    described = {
        "name": "n1",
        "address": NODE,
        "address6": NODE6,
        "cluster_networks": ["10.244.0.0/16", "fd00:10:244::/48"],
    }
    return {"objects": list(objects), "node": {**described, **node}, "backend": way.split("-")[0]}


ABSENT: Args = {"state": "absent", "objects": []}


def runner(args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
    if shutil.which(args[0]) is None:
        return 127, "", "command not found"
    done = subprocess.run(list(args), input=data, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def apply_to(directory: Path, node: Namespace, args: Args, check: bool = False) -> Outcome:
    """What the module does, in this process. Each node has a memory of its own below ``directory``."""
    before, store.DIRECTORY = store.DIRECTORY, str(directory / node.name)
    try:
        with inside(node):
            return change(args, check, runner)[1]
    finally:
        store.DIRECTORY = before


def operations(outcome: Outcome) -> list[str]:
    """Without that of the file that the module remembers by."""
    return [str(each) for each in outcome.operations if each.item.kind != "file"]


def kinds_here() -> list[str]:
    """Of iptables, those that are installed."""
    return [kind for kind, program in MULTI.items() if shutil.which(program)]


def snapshot(node: Namespace) -> dict[str, list[str]]:
    """All that the module may touch, and what is next to it; sets and chains in any order, rules in theirs."""
    saves = [f"{half.command(kind)}-save" for kind in kinds_here() for half in HALVES]
    commands = ["ipset save", "nft list ruleset", *saves, "ipvsadm -S -n", "ip -j address show"]
    # Where a kernel has none of it, nothing is in it.
    script = "; echo =====; ".join(f"{command} 2>/dev/null" for command in commands)
    parts = node.run(["sh", "-c", script]).stdout.split("=====\n")
    sets, ruleset, *filters, services, links = parts
    return {
        "sets": sorted(_without_sizes(sets)),
        "nft": _chains(ruleset),
        "rules": [line for text in filters for line in _rules(text)],
        "services": sorted(services.splitlines()),
        "addresses": sorted(
            f"{link['ifname']} {info['local']}"
            for link in json.loads(links)
            for info in link["addr_info"]
            if info["scope"] != "link"
        ),
    }


def _without_sizes(saved: str) -> list[str]:
    """Hash sizes and seeds are the kernel's matter."""
    return [re.sub(r" (hashsize|initval) \S+", "", line) for line in saved.splitlines()]


def _chains(ruleset: str) -> list[str]:
    """Of tables that hold anything but those that iptables brings into being."""
    shown = re.sub(r"counter packets \d+ bytes \d+", "", ruleset)
    blocks = re.findall(r"^table .*|^\t(?:chain|set) \w[\w-]* {\n(?:\t\t.*\n|\n)*\t}", shown, re.MULTILINE)
    table, found = "", []
    for block in blocks:
        if block.startswith("table "):
            table = block
        elif not re.fullmatch(r"\tchain [A-Z]+ {\n\t\ttype .*\n\t}", block):
            elements = sorted(re.split(r",\s+", block)) if block.startswith("\tset") else [block]
            found.append(f"{table} {elements}")
    return sorted(found)


def _rules(saved: str) -> list[str]:
    lines = [re.sub(r" \[\d+:\d+\]", "", line) for line in saved.splitlines() if line and line[0] in ":-*"]
    table, found = "", []
    for line in lines:
        table = line if line.startswith("*") else table
        if not line.startswith("*") and not re.fullmatch(r":[A-Z]+ ACCEPT", line):
            found.append(f"{table} {line}")
    return sorted(found, key=lambda line: (line.split(" ")[0], line.split(" ")[1][0] == "-", line.split(" ")[2]))
