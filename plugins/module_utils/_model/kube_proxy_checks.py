# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy's variables must not say together, and what is better not said. Nothing is asked of a node."""

from __future__ import annotations

import ipaddress
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple

from .errors import SpecError
from .kube_proxy_options import (
    BRIDGE,
    CLUSTER_CIDR,
    IPTABLES,
    IPVS,
    MODES,
    NFTABLES,
    PREFIX,
    PREFIXED,
    PRIMARY,
    KubeProxy,
    read_values,
)
from .kube_proxy_values import minor_version
from .service_nat import MARK

# KEP-5495: deprecation in a warning, feature gate off by default, code removed.
IPVS_DEPRECATED, IPVS_GATED, IPVS_REMOVED = (1, 35), (1, 40), (1, 43)
IPVS_GATE, IPVS_GATE_KNOWN = "KubeProxyIPVS", (1, 37)
# The oldest release whose mode nftables needs no feature gate.
OLDEST = (1, 31)
# Linux, net/netfilter/ipvs/ip_vs_proto_tcp.c, IP_VS_TCP_S_ESTABLISHED: what IPVS has where no time-out is given.
IPVS_TCP_SECONDS = 900
# kube-proxy sets no more on machines with many cores, whatever the minimum is (pkg/proxy/conntrack).
MOST_CONNECTIONS = 1048576
# TCP ports of what runs on a node too, and Kubernetes' default range of node ports.
TAKEN = {
    2379: "etcd",
    2380: "etcd",
    6443: "the API server",
    7472: "MetalLB",
    7473: "MetalLB",
    7946: "MetalLB",
    10250: "kubelet",
    10257: "kube-controller-manager",
    10259: "kube-scheduler",
}
NODE_PORTS = range(30000, 32768)
# Bits of packet marks that something else on the node sets and tests.
MARKED = {
    MARK.bit_length() - 1: f"this collection's own services ({MARK:#x})",
    13: "CNI plugin portmap (0x2000)",
}
# Time-outs of IPVS, and those of connection tracking for the same connections.
_TRACKED = {"ipvs_tcp_timeout": "conntrack_tcp_established_timeout", "ipvs_udp_timeout": "conntrack_udp_stream_timeout"}

_Found = Iterator[SpecError]


def parse_kube_proxy(document: Mapping[str, Any]) -> KubeProxy:
    """Shape: variables by name, see ``kube_proxy_options``. Raises SpecError naming a variable."""
    values, problems = read_values(document)
    proxy = KubeProxy(values)
    for problem in problems or contradictions(proxy):
        raise problem
    if not values["cluster_api_server"]:
        raise SpecError("cluster_api_server", "is not set; kube-proxy needs the URL of the Kubernetes API server")
    return proxy


def problems_of(document: Mapping[str, Any]) -> Tuple[KubeProxy, List[SpecError]]:
    """All that is wrong at once; a variable that is wrong by itself counts with its default in what follows."""
    values, problems = read_values(document)
    proxy = KubeProxy(values)
    wrong = {_variable(problem) for problem in problems}
    return proxy, problems + [problem for problem in contradictions(proxy) if _variable(problem) not in wrong]


def _variable(problem: SpecError) -> str:
    return problem.path.partition("[")[0].partition(".")[0]


def contradictions(proxy: KubeProxy) -> List[SpecError]:
    """Each names the variable to change."""
    return [problem for check in _CHECKS for problem in check(proxy)]


def warnings(proxy: KubeProxy) -> List[SpecError]:
    """What works, and will not go on to or surprises."""
    return [*_deprecated(proxy), *_many_connections(proxy), *_node_ports_of_ours(proxy)]


def _problem(name: str, text: str) -> SpecError:
    return SpecError(PREFIX + name, text)


def _release(proxy: KubeProxy) -> _Found:
    release = minor_version(proxy["version"])
    if release < OLDEST:
        yield _problem("version", f"must be {OLDEST[0]}.{OLDEST[1]} or newer, not {proxy['version']}")
    if proxy.mode != IPVS or release < IPVS_GATED:
        return
    if release >= IPVS_REMOVED:
        text = f"ipvs is not part of kube-proxy {proxy['version']}: it was removed in {_dotted(IPVS_REMOVED)}"
        yield _problem("mode", f"{text}; use nftables")
    elif not proxy["feature_gates"].get(IPVS_GATE):
        text = f"ipvs is off by default from {_dotted(IPVS_GATED)} on, and kube-proxy would not start"
        gate = f"set {IPVS_GATE}: true in {PREFIX}feature_gates"
        yield _problem("mode", f"{text}; use nftables, or {gate} until it is removed in {_dotted(IPVS_REMOVED)}")


def _gates(proxy: KubeProxy) -> _Found:
    """kube-proxy does not start with a gate that it does not know."""
    if IPVS_GATE in proxy["feature_gates"] and minor_version(proxy["version"]) < IPVS_GATE_KNOWN:
        yield SpecError(
            f"{PREFIX}feature_gates.{IPVS_GATE}", f"is not known before {_dotted(IPVS_GATE_KNOWN)}; remove it"
        )


def _dotted(release: Tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


def _deprecated(proxy: KubeProxy) -> _Found:
    if proxy.mode == IPVS and IPVS_DEPRECATED <= minor_version(proxy["version"]) < IPVS_REMOVED:
        text = f"ipvs is deprecated since Kubernetes {_dotted(IPVS_DEPRECATED)}, off by default"
        removed = f"from {_dotted(IPVS_GATED)} on and removed in {_dotted(IPVS_REMOVED)}"
        yield _problem("mode", f"{text} {removed}; nftables takes its place")


def _metrics_release(proxy: KubeProxy) -> _Found:
    given, (major, minor) = proxy["show_hidden_metrics_for_version"], minor_version(proxy["version"])
    before = f"{major}.{minor - 1}"
    if given and given != before:
        text = f"must be empty or that before {PREFIX}version {proxy['version']}, which is {before}, not {given}"
        yield _problem("show_hidden_metrics_for_version", text)


def _periods(proxy: KubeProxy) -> _Found:
    for mode in MODES:
        low, high = proxy[f"{mode}_min_sync_period"], proxy[f"{mode}_sync_period"]
        if low.nanoseconds > high.nanoseconds:
            yield _problem(f"{mode}_min_sync_period", f"{low} is more than {PREFIX}{mode}_sync_period {high}")


def _local(proxy: KubeProxy) -> _Found:
    mode = proxy["detect_local_mode"]
    needed = {BRIDGE: "detect_local_bridge_interface", PREFIXED: "detect_local_interface_name_prefix"}.get(mode)
    if needed and not proxy[needed]:
        yield _problem(needed, f"is required with {PREFIX}detect_local_mode {mode}")
    if mode == CLUSTER_CIDR and not proxy.values["cluster_pod_cidr"]:
        yield SpecError("cluster_pod_cidr", f"is required with {PREFIX}detect_local_mode {mode}")


def _families(proxy: KubeProxy) -> _Found:
    """The first family of a cluster is IPv4, so kube-proxy must not take IPv6 for it."""
    if ":" in proxy["bind_address"]:
        text = f"must be an IPv4 address, the cluster's first family, not {proxy['bind_address']}"
        yield _problem("bind_address", text)
    given = [entry for entry in proxy["node_port_addresses"] if entry != PRIMARY]
    if not given:
        return
    versions, dual = _versions(given), bool(proxy.values["cluster_pod_cidr6"])
    if 6 in versions and not dual:
        yield _problem("node_port_addresses", "holds an IPv6 network, and the cluster has no cluster_pod_cidr6")
    for version in (4, 6) if dual else (4,):
        if version not in versions:
            text = f"holds no IPv{version} network, so node ports would be open on all IPv{version} addresses of a node"
            yield _problem("node_port_addresses", f"{text}; name those that shall have them")


def _versions(entries: Iterable[str]) -> List[int]:
    return [ipaddress.ip_network(entry).version for entry in entries]


def _excluded(proxy: KubeProxy) -> _Found:
    """In excluded ranges kube-proxy removes nothing, so its own services must not be there."""
    service = proxy.values["cluster_service_cidr"]
    for name in ("cluster_virtual_cidrs", f"{PREFIX}ipvs_exclude_cidrs"):
        for index, entry in enumerate(proxy.values[name]):
            if service and _overlap(entry, service):
                text = f"{entry} overlaps cluster_service_cidr {service}, where kube-proxy would remove no service"
                yield SpecError(f"{name}[{index}]", f"{text} any more; choose networks that share no address")


def _overlap(one: str, other: str) -> bool:
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)


def _ports(proxy: KubeProxy) -> _Found:
    names = ("healthz_bind_address", "metrics_bind_address")
    health, metrics = (proxy[name] for name in names)
    if health.meets(metrics):
        yield _problem(
            names[1], f"{metrics} cannot be listened on beside {PREFIX}{names[0]} {health}; use another port"
        )
    for name in names:
        port = proxy[name].port
        if port in NODE_PORTS:
            span = f"{NODE_PORTS[0]} to {NODE_PORTS[-1]}"
            yield _problem(name, f"port {port} is one of those given to services ({span}); use another one")
        elif port in TAKEN:
            yield _problem(name, f"port {port} is that of {TAKEN[port]}; use another one")


def _marks(proxy: KubeProxy) -> _Found:
    for section in (IPTABLES, NFTABLES):
        name = f"{section}_masquerade_bit"
        if proxy[name] in MARKED:
            yield _problem(name, f"bit {proxy[name]} is that of {MARKED[proxy[name]]}; 14 is Kubernetes' own")


def _arp(proxy: KubeProxy) -> _Found:
    if proxy.mode == IPVS and proxy.values["cluster_metallb"] and not proxy["ipvs_strict_arp"]:
        text = "must be true with cluster_metallb: all nodes would answer for the addresses that MetalLB announces"
        yield _problem("ipvs_strict_arp", text)


def _timeouts(proxy: KubeProxy) -> _Found:
    if proxy.mode != IPVS:
        return
    tcp, keepalive = proxy["ipvs_tcp_timeout"].seconds or IPVS_TCP_SECONDS, proxy["tcp_keepalive_time"]
    if keepalive >= tcp:
        text = f"{keepalive} seconds are not less than the {tcp} after which IPVS forgets an idle connection"
        yield _problem("tcp_keepalive_time", f"{text}; lower it, or raise {PREFIX}ipvs_tcp_timeout")
    for name, other in _TRACKED.items():
        shorter: Dict[str, int] = {key: proxy[key].seconds for key in (name, other)}
        if 0 < shorter[other] < shorter[name]:
            text = f"{proxy[name]} is more than {PREFIX}{other} {proxy[other]}"
            yield _problem(name, f"{text}, after which the connection loses its translated address")


def _logging(proxy: KubeProxy) -> _Found:
    if proxy["log_vmodule"] and proxy["log_format"] != "text":
        yield _problem("log_vmodule", f"is possible with {PREFIX}log_format text only")


def _many_connections(proxy: KubeProxy) -> _Found:
    if proxy["conntrack_max_per_core"] and proxy["conntrack_min"] > MOST_CONNECTIONS:
        where = f"on nodes where {PREFIX}conntrack_max_per_core times cores is more than {MOST_CONNECTIONS}"
        yield _problem(
            "conntrack_min", f"{proxy['conntrack_min']} does not hold {where}: kube-proxy sets no more there"
        )


def _node_ports_of_ours(proxy: KubeProxy) -> _Found:
    """In mode ipvs it also makes node ports on addresses of our own devices, and then leaves them, being excluded."""
    if proxy.mode == IPVS and proxy.values["cluster_virtual_cidrs"] and not proxy.node_port_addresses:
        text = "is empty, so node ports are offered on virtual addresses in cluster_virtual_cidrs too, and stay there"
        yield _problem("node_port_addresses", f"{text}; set it to [primary] or to the nodes' networks")


_CHECKS = (
    _release,
    _gates,
    _metrics_release,
    _periods,
    _local,
    _families,
    _excluded,
    _ports,
    _marks,
    _arp,
    _timeouts,
    _logging,
)
