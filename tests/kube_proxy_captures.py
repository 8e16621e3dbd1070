# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Our model's words on services in the form of tests/fixtures/kube_proxy, where real kube-proxy's are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import VERSIONS, version_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.manifests import of_list
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import ServiceNode, parse_node
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_sets import (
    FORMS,
    LOAD_BALANCER_NOT_FROM_NODE,
    entry_text,
    kube_proxy_name,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_table import ServiceTable, service_table

__all__ = ["FORMS", "VERSIONS", "expected", "kube_proxy_name", "node_of", "not_from_node", "refused", "stored"]

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "kube_proxy"
_ZONE = "topology.kubernetes.io/zone"
# -A KUBE-IPVS-OUT-FILTER -s 198.19.1.1/32 -m ipvs --vproto 6 --vaddr 198.19.1.1 --vport 80 ...
_NOT_FROM_NODE = re.compile(r"--vproto (\d+) --vaddr (\S+) --vport (\d+) ")
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}


def stored() -> dict[str, dict[str, Any]]:
    """All of them, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*.json"))}


def node_of(node: Mapping[str, Any], options: Mapping[str, Any]) -> ServiceNode:
    """The node of a capture, with the fields of KubeProxyConfiguration that concern services."""
    addresses = [each.partition("/")[0] for found in node["interfaces"].values() for each in found]
    networks = {
        "ClusterCIDR": [each for each in options.get("clusterCIDR", "").split(",") if each],
        "NodeCIDR": node["podCIDRs"],
    }
    return parse_node(
        {
            "name": node["name"],
            "zone": node["labels"].get(_ZONE, ""),
            "addresses": addresses,
            "address": node["addresses"][0],
            "address6": node["addresses"][1],
            "node_port_addresses": options.get("nodePortAddresses", []),
            "scheduler": options.get("ipvs", {}).get("scheduler", "rr"),
            "cluster_networks": networks[options.get("detectLocalMode", "ClusterCIDR")],
            "masquerade_all": options.get("iptables", {}).get("masqueradeAll", False),
        }
    )


def expected(objects: Sequence[Any], node: ServiceNode) -> dict[str, Any]:
    """``ipvs``, ``addresses`` and ``ipsets`` of these objects."""
    return _state(service_table(of_list(objects), node))


def not_from_node(objects: Sequence[Any], node: ServiceNode) -> list[str]:
    """What the node itself must not use, as in ``refused``."""
    found = service_table(of_list(objects), node).sets[LOAD_BALANCER_NOT_FROM_NODE]
    return sorted(entry_text(entry) for entries in found.values() for entry in entries)


def refused(capture: Mapping[str, Any]) -> list[str]:
    """Address, protocol and port of the services that kube-proxy's rules keep from the node itself."""
    lines = [line for family in ("iptables", "ip6tables") for line in capture[family]["filter"] if "--vaddr" in line]
    found = [_NOT_FROM_NODE.search(line) for line in lines]
    assert all(found), lines
    return sorted(f"{each[2]},{_PROTOCOLS[each[1]]}:{each[3]}" for each in found if each)


def _state(table: ServiceTable) -> dict[str, Any]:
    sets = {
        kube_proxy_name(name, version): sorted(map(entry_text, entries))
        for name, by_version in table.sets.items()
        if FORMS[name].kube_proxy
        for version, entries in by_version.items()
        if entries
    }
    return {
        "ipvs": sorted(ipvsadm_lines(table.services, table.servers)),
        "addresses": sorted(f"{address}/{version_of(address).bits}" for address in table.addresses),
        "ipsets": sets,
    }
