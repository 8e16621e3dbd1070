# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The IPv6 half of a declared cluster: its nodes' addresses, and what of the declaration does not go with it.

The pod network and its subnets themselves are checked with those of IPv4.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

from .backend import BACKENDS, VNI_LIMIT6, VXLAN, overhead
from .declared import Problem, Setting, Settings, as_problem, whole_number
from .errors import SpecError
from .ip_version import IPV6
from .parse import Network, parse_address, parse_network

POD_CIDR6, NODE_ADDRESS6 = "cluster_pod_cidr6", "cluster_node_address6"
PUBLIC_ADDRESS6 = "flannel_public_address6"
SUBNET6_VARIABLES = ("flannel_subnet6_len", "flannel_subnet6_min", "flannel_subnet6_max")

Found = Iterator[Tuple[bool, Problem]]
ERROR, WARNING = True, False


def check_ipv6(settings: Settings, nodes: Sequence[str], backend: str) -> Found:
    """``nodes`` are the members of the overlay, ``backend`` is how its packets travel."""
    entry = next((setting for setting in settings.of(POD_CIDR6) if is_given(setting)), None)
    if entry is None:
        yield from _useless(settings)
        return
    if entry.unresolved:
        yield ERROR, entry.problem(f"cannot be computed before a node is asked ({entry.unresolved})")
    yield from _addresses(settings, nodes, _network(entry))
    yield from _too_small_or_large(settings, backend)


def is_given(entry: Optional[Setting]) -> bool:
    return entry is not None and (bool(entry.unresolved) or entry.value not in (None, ""))


def _useless(settings: Settings) -> Found:
    for name in (*SUBNET6_VARIABLES, PUBLIC_ADDRESS6):
        for setting in settings.of(name):
            if is_given(setting) and whole_number(setting.value) != 0:
                yield WARNING, setting.problem(f"is of IPv6, and {POD_CIDR6} is not set; nothing will read it")


def _network(entry: Setting) -> Optional[Network]:
    with contextlib.suppress(SpecError):
        return parse_network(entry.value, entry.path)
    return None


def _addresses(settings: Settings, nodes: Sequence[str], network: Optional[Network]) -> Found:
    seen: Dict[Any, str] = {}
    for node in nodes:
        path, entry = f"hosts.{node}.{NODE_ADDRESS6}", settings.on(node, NODE_ADDRESS6)
        if entry is None or not is_given(entry):
            yield ERROR, Problem(path, f"is not set; every node of a cluster with {POD_CIDR6} needs one")
            continue
        if entry.unresolved:
            text = f"cannot be computed before the node is asked ({entry.unresolved}); declare an address"
            yield ERROR, Problem(path, text, entry.where)
            continue
        try:
            address = parse_address(entry.value, path)
        except SpecError as error:
            yield ERROR, as_problem(error, path, entry.where)
            continue
        problem = IPV6.host_problem(address)
        if problem:
            yield ERROR, Problem(path, f"{address} {problem}; declare the node's own address", entry.where)
            continue
        if network is not None and address in network:
            text = f"{address} is inside {POD_CIDR6} {network}; move the network or the node"
            yield ERROR, Problem(path, text, entry.where)
        other = seen.setdefault(address, path)
        if other != path:
            text = f"{address} is also that of {other}; every node needs an address of its own"
            yield ERROR, Problem(path, text, entry.where)


def _too_small_or_large(settings: Settings, backend: str) -> Found:
    for setting in settings.of("flannel_vxlan_vni"):
        number = whole_number(setting.value)
        if backend == VXLAN and number is not None and number > VNI_LIMIT6:
            text = f"must be 1 to {VNI_LIMIT6} with {POD_CIDR6}, not {number}"
            yield ERROR, setting.problem(f"{text}: the name of device flannel-v6.<vni> ends there")
    headers = overhead(backend, IPV6) if backend in BACKENDS else 0
    smallest = IPV6.smallest_mtu + headers
    for setting in settings.of("flannel_mtu"):
        number = whole_number(setting.value)
        if number and number < smallest:
            text = f"{IPV6.smallest_mtu} bytes{f' and {headers} of headers' if headers else ''}"
            yield ERROR, setting.problem(f"must be 0 or {smallest} to 65535, not {number}: IPv6 needs {text}")
