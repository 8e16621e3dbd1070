# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which endpoints of a service get its traffic on one node, as kube-proxy 1.36 chooses them (pkg/proxy/topology.go and
endpointslicecache.go)."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Tuple

from ..ip_version import IpVersion
from ..ipvs import endpoint_name
from .endpoint_slice import Endpoint, EndpointSlice

# The name of a port and its protocol; the endpoints there by their names.
_Port = Tuple[str, str]
_Ports = Dict[_Port, Dict[str, "Backend"]]


class Backend(NamedTuple):
    """An endpoint at one port. ``name`` is "10.244.1.5:8080"; ``local`` is one on the node that is looked at."""

    name: str
    port: int
    local: bool
    endpoint: Endpoint

    @property
    def draining(self) -> bool:
        return self.endpoint.serving and self.endpoint.terminating


class Choice(NamedTuple):
    """Endpoints for traffic that may go anywhere, and for traffic that should stay on the node. The second are none
    when the node has none that serves, and when no traffic of the service should stay."""

    cluster: List[Backend]
    local: List[Backend]


class Endpoints:
    """Of all services, in the view of one node. Of an endpoint that is in several slices the last one in the order of
    names counts, but one that terminates only when there is no other."""

    def __init__(self, slices: Iterable[EndpointSlice], node: str, zone: str) -> None:
        self._node = node
        self._zone = zone
        self._found: Dict[Tuple[str, int], _Ports] = {}
        for each in sorted(slices, key=lambda one: one.name):
            self._add(each)

    def of(self, service: str, version: IpVersion, port: _Port) -> List[Backend]:
        """All of them, in whatever condition."""
        return list(self._ports(service, version).get(port, {}).values())

    def ready_here(self, service: str, version: IpVersion) -> int:
        """How many on the node are ready, each counted once for all ports: what load balancers' health checks see."""
        ports = self._ports(service, version).values()
        ready = {
            each.endpoint.address for found in ports for each in found.values() if each.local and each.endpoint.ready
        }
        return len(ready)

    def choose(self, backends: List[Backend], anywhere: bool, staying: bool) -> Choice:
        """``anywhere`` and ``staying`` say which kinds of traffic the service has."""
        cluster = self._anywhere(backends) if anywhere else []
        local = [each for each in backends if each.local] if staying else []
        return Choice(cluster, _serving(local)[0])

    def _ports(self, service: str, version: IpVersion) -> Mapping[_Port, Dict[str, Backend]]:
        return self._found.get((service, version.number), {})

    def _add(self, each: EndpointSlice) -> None:
        ports = self._found.setdefault((each.full_service, each.version.number), {})
        for port in each.ports:
            if port.port:
                known = ports.setdefault((port.name, port.protocol), {})
                for endpoint in each.endpoints:
                    name = endpoint_name(endpoint.address, port.port)
                    if name not in known or not endpoint.terminating:
                        known[name] = Backend(name, port.port, endpoint.node == self._node, endpoint)

    def _anywhere(self, backends: List[Backend]) -> List[Backend]:
        serving, ready = _serving(backends)
        return self._hinted(serving) if ready else serving

    def _hinted(self, ready: List[Backend]) -> List[Backend]:
        """Hints are followed when every ready endpoint has some, and one has the node's or the zone's."""
        if all(each.endpoint.nodes for each in ready):
            near = [each for each in ready if self._node in each.endpoint.nodes]
            if near:
                return near
        if all(each.endpoint.zones for each in ready):
            return [each for each in ready if self._zone in each.endpoint.zones] or ready
        return ready


def _serving(backends: List[Backend]) -> Tuple[List[Backend], bool]:
    """Those that are ready; when none is, those that finish their last requests. And which of both it is."""
    ready = [each for each in backends if each.endpoint.ready]
    return (ready, True) if ready else ([each for each in backends if each.draining], False)
