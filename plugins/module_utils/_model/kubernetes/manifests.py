# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services and EndpointSlices of a cluster, read together: what contradicts what, and what belongs to nothing."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Set, Tuple, TypeVar

from ..errors import SpecError
from ..parse import unique
from .documents import SERVICE, KubernetesObject, Skipped, read_objects
from .endpoint_slice import EndpointSlice, slice_or_reason
from .service import Service, service_or_reason

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True)
class Manifests:
    """Services and slices in the order of their names, so that nothing depends on the order of the documents."""

    services: Tuple[Service, ...]
    slices: Tuple[EndpointSlice, ...]
    skipped: Tuple[Skipped, ...]


def read_manifests(documents: Mapping[str, Any]) -> Manifests:
    """``documents`` maps the path that errors are to name to each document as parsed from YAML, as Section.entries
    gives them: ``{"services[0]": {...}}``. Raises SpecError by the path of the first mistake."""
    objects, skipped = read_objects(documents)
    services = _all(objects, True, service_or_reason, skipped)
    slices = _all(objects, False, slice_or_reason, skipped)
    services.sort(key=lambda each: (each.namespace, each.name))
    slices.sort(key=lambda each: (each.namespace, each.name))
    _refuse_collisions(services)
    declared = {f"{one.namespace}/{one.name}" for one in objects if one.kind == SERVICE}
    skipped += _useless(services, slices, declared)
    return Manifests(tuple(services), tuple(slices), tuple(skipped))


def of_list(documents: Sequence[Any], name: str = "services") -> Dict[str, Any]:
    """What ``read_manifests`` takes, for documents that are in a list of this name."""
    return {f"{name}[{index}]": document for index, document in enumerate(documents)}


def _all(
    objects: List[KubernetesObject],
    services: bool,
    read: Callable[[KubernetesObject], Tuple[Read, str]],
    skipped: List[Skipped],
) -> List[Any]:
    found = []
    for one in objects:
        if (one.kind == SERVICE) is not services:
            continue
        try:
            result, reason = read(one)
        except SpecError as error:
            raise SpecError(error.path, f"{error.problem} (of {one.title})") from None
        if reason:
            skipped.append(Skipped(one.title, reason))
        else:
            found.append(result)
    return found


def _refuse_collisions(services: List[Service]) -> None:
    """What the API server hands out only once."""
    unique({path: address for each in services for path, address in each.cluster_ips.items()}, "cluster IP")
    owners: Dict[int, Tuple[str, str]] = {}
    for service in services:
        for path, port in _node_ports(service):
            # TCP and UDP of one service may share a number.
            owner, where = owners.setdefault(port, (service.full_name, path))
            if owner != service.full_name or path.endswith("healthCheckNodePort") and where != path:
                raise SpecError(path, f"node port {port} is also that of {where} (Service {owner})")


def _node_ports(service: Service) -> Iterator[Tuple[str, int]]:
    for port in service.ports:
        if port.node_port:
            yield f"{port.path}.nodePort", port.node_port
    if service.health_check_port:
        yield f"{service.path}.spec.healthCheckNodePort", service.health_check_port


def _useless(services: List[Service], slices: List[EndpointSlice], declared: Set[str]) -> Iterator[Skipped]:
    """Slices and ports of them from which no service gets an endpoint."""
    by_name = {service.full_name: service for service in services}
    for each in slices:
        service = by_name.get(each.full_service)
        if service is None and each.full_service not in declared:
            yield Skipped(each.title, f"there is no Service {each.full_service}")
        elif service is not None and not service.cluster_ip(each.version):
            yield Skipped(each.title, f"Service {each.full_service} has no {each.version} address")
        elif service is not None:
            yield from _useless_ports(service, each)


def _useless_ports(service: Service, each: EndpointSlice) -> Iterator[Skipped]:
    known = {port.target for port in service.ports}
    for port in each.ports:
        title = f"port {port.name!r} of {each.title}"
        if not port.port:
            yield Skipped(title, "it has no number")
        elif (port.name, port.protocol) not in known:
            names = ", ".join(f"{name!r} ({protocol})" for name, protocol in sorted(known))
            yield Skipped(title, f"Service {each.full_service} has no {port.protocol} port of this name but {names}")
