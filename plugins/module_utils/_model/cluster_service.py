# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The services of a cluster as one node has them: the parameters of module cluster_service."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, FrozenSet, List, Mapping, Sequence, Tuple

from .errors import SpecError
from .health_check import HealthCheck
from .ip_version import VERSIONS, IpVersion
from .ipvs import service_parts
from .ipvs_service import DRAIN_SECONDS, LONGEST_DRAIN, Declared
from .kubernetes.documents import Skipped
from .kubernetes.manifests import of_list
from .masquerade import AUTO, BACKENDS
from .parse import Section
from .service_nat import ServiceNat, nat_of
from .service_node import parse_node
from .service_table import service_table

#: Not that of module ipvs_service, which takes away from its device what it does not know.
DEVICE = "fairlead-svc"
_NODE = (
    "name",
    "zone",
    "address",
    "address6",
    "families",
    "node_port_addresses",
    "scheduler",
    "cluster_networks",
    "masquerade_all",
    "members",
    "node_ports",
)


@dataclasses.dataclass(frozen=True)
class ClusterServices:
    """``backend`` is that of the rules. ``addresses`` are those of the node's own that make a difference: with these
    alone, the same declaration leads to the same. ``members`` are addresses of the cluster's nodes."""

    declared: Declared
    nat: Tuple[ServiceNat, ...]
    skipped: Tuple[Skipped, ...]
    backend: str = AUTO
    addresses: Tuple[str, ...] = ()
    health_checks: Tuple[HealthCheck, ...] = ()
    members: FrozenSet[str] = frozenset()


def parse_cluster_services(data: Mapping[str, Any], addresses: Sequence[str]) -> ClusterServices:
    """``addresses`` are all of the node's own but those of ``DEVICE``. Raises SpecError naming the item."""
    section = Section(data)
    objects = section.list("objects", [])
    backend = section.text("backend", AUTO, BACKENDS)
    drain = section.integer("drain_seconds", 0, LONGEST_DRAIN, DRAIN_SECONDS)
    given = section.section("node")
    fields: Dict[str, Any] = {name: given.get(name) for name in _NODE if given.get(name, None) is not None}
    given.finish()
    node = parse_node({**fields, "addresses": list(addresses)}, given.path)
    section.finish()
    table = service_table(of_list(objects, "objects"), node)
    declared = Declared(table.services, table.servers, device=DEVICE, drain=drain)
    nat = tuple(nat_of(table, node, version) for version in _versions(node.versions, declared))
    served = {service_parts(each.service).address for each in table.services} | set(node.primary.values())
    own = tuple(each for each in addresses if each in served)
    return ClusterServices(declared, nat, table.skipped, backend, own, table.health_checks, node.members)


def _versions(allowed: Sequence[IpVersion], declared: Declared) -> List[IpVersion]:
    """Those that there are services of: a node without IPv6 need not have its tables."""
    found = {"[" in each.service for each in declared.services}
    return [version for version in VERSIONS if version in allowed and (version is VERSIONS[1]) in found]


def addresses_of(document: Mapping[str, Any]) -> List[str]:
    """The node's own addresses that a remembered document was about."""
    texts = document.get("addresses", [])
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise SpecError("addresses", "must be a list of texts")
    return texts
