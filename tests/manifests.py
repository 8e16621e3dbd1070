# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices as people write them, and the node that tests look at: n1."""

from __future__ import annotations

from typing import Any

from ansible_collections.fairlead.cluster.plugins.module_utils._model.kubernetes.manifests import of_list
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_node import parse_node
from ansible_collections.fairlead.cluster.plugins.module_utils._model.service_table import ServiceTable, service_table

Object = dict[str, Any]
NODE: Object = {
    "name": "n1",
    "zone": "zone-a",
    "addresses": ["127.0.0.1", "192.0.2.2", "10.244.1.1", "::1", "2001:db8::2", "fe80::2"],
}
READY = {"ready": True, "serving": True, "terminating": False}
UNREADY = {"ready": False, "serving": False, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


def service(name: str = "web", /, **spec: Any) -> Object:
    """TCP port 80 at 10.96.0.10 unless told otherwise; ``status`` and ``labels`` go where they belong."""
    status, labels = spec.pop("status", None), spec.pop("labels", None)
    spec = {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], **spec}
    made: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    made["metadata"].update({"labels": labels} if labels else {})
    return {**made, **({"status": status} if status else {})}


def balanced(*addresses: str, **spec: Any) -> Object:
    """With a load balancer at these addresses."""
    status = {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}
    return service(type="LoadBalancer", status=status, **spec)


def node_port(number: int = 30080, protocol: str = "TCP", **spec: Any) -> Object:
    return service(type="NodePort", ports=[{"port": 80, "protocol": protocol, "nodePort": number}], **spec)


def endpoint(address: str, node: str = "", conditions: Object | None = None, **hints: list[str]) -> Object:
    """``hints`` are zones and nodes."""
    keys = {"zones": "forZones", "nodes": "forNodes"}
    named = {keys[kind]: [{"name": name} for name in names] for kind, names in hints.items()}
    return {
        "addresses": [address],
        **({"nodeName": node} if node else {}),
        **({} if conditions is None else {"conditions": conditions}),
        **({"hints": named} if named else {}),
    }


def endpoint_slice(*endpoints: Object, of: str = "web", suffix: str = "a", **fields: Any) -> Object:
    """Port 8080 over IPv4 unless told otherwise."""
    labels = {"kubernetes.io/service-name": of, **fields.pop("labels", {})}
    made = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
    metadata = {"name": f"{of}-{suffix}", "labels": labels}
    return {**made, "metadata": metadata, "ports": [{"port": 8080}], "endpoints": list(endpoints), **fields}


def table(*documents: Any, **node: Any) -> ServiceTable:
    return service_table(of_list(documents), parse_node({**NODE, **node}))


def servers(found: ServiceTable, name: str = "tcp 10.96.0.10:80") -> list[str]:
    """The addresses of a virtual service's real servers, which must be there."""
    assert name in {each.service for each in found.services}
    return sorted(each.address for each in found.servers if each.service == name)
