# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The variables of role kube_proxy that say what kube-proxy does: defaults, what each may be, and their values.

Defaults are those of Kubernetes 1.36 (pkg/proxy/apis/config/v1alpha1), but for the mode. Limits are those of
kube-proxy's own validation where it has them, else those of what uses the value. Options of KubeProxyConfiguration
without a variable: ``portRange`` (unused since 1.26), ``windowsRunAsService`` and ``winkernel``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Tuple

from .errors import SpecError
from .kube_proxy_values import (
    Reader,
    address,
    api_server,
    boolean,
    choice,
    duration,
    endpoint,
    file_path,
    gates,
    integer,
    interface,
    minor,
    network,
    networks,
    node_name,
    number,
    optional,
    version,
    vmodule,
)

PREFIX = "kube_proxy_"
IPVS, NFTABLES, IPTABLES = "ipvs", "nftables", "iptables"
MODES = (IPVS, NFTABLES, IPTABLES)
CLUSTER_CIDR, NODE_CIDR, BRIDGE, PREFIXED = "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"
PRIMARY = "primary"
# Linux, net/netfilter/ipvs/Kconfig.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf")
VERSION = "1.36.3"
# Not given, it is what MetalLB needs.
STRICT_ARP = f"{PREFIX}ipvs_strict_arp"

_INT32 = 2**31 - 1
# The kernel counts these in its ticks, a thousand a second at the most, in an int.
_LONGEST = f"{_INT32 // 1000}s"
_SYNC, _TIMEOUT = duration("1s", "24h"), duration("0s", _LONGEST, whole_seconds=True)
# kube-proxy takes 0 for its default in these two modes.
_MIN_SYNC = duration("1ms", "24h")
_BIT = integer(0, 31)


@dataclasses.dataclass(frozen=True)
class Option:
    """``read`` takes a value and the name of its variable, and gives the canonical value or raises SpecError."""

    default: Any
    read: Reader


# By the name of the variable without PREFIX.
OPTIONS: Mapping[str, Option] = {
    "version": Option(VERSION, version),
    "mode": Option(NFTABLES, choice(*MODES)),
    "feature_gates": Option({}, gates),
    "hostname_override": Option("", optional(node_name)),
    "bind_address": Option("0.0.0.0", address),
    "bind_address_hard_fail": Option(False, boolean),
    "healthz_bind_address": Option("0.0.0.0:10256", endpoint),
    "metrics_bind_address": Option("127.0.0.1:10249", endpoint),
    "enable_profiling": Option(False, boolean),
    "show_hidden_metrics_for_version": Option("", optional(minor)),
    "oom_score_adj": Option(-999, integer(-1000, 1000)),
    "config_sync_period": Option("15m", _SYNC),
    # How it asks the API server.
    "client_qps": Option(5, number(0.1, 10000)),
    "client_burst": Option(10, integer(1, 100000)),
    "client_content_type": Option(
        "application/vnd.kubernetes.protobuf", choice("application/vnd.kubernetes.protobuf", "application/json")
    ),
    "ca_file": Option("/etc/fairlead/pki/kubernetes-ca.crt", file_path),
    "cert_file": Option("/etc/fairlead/pki/kube-proxy.crt", file_path),
    "key_file": Option("/etc/fairlead/pki/kube-proxy.key", file_path),
    "log_format": Option("text", choice("text", "json")),
    # klog knows levels up to 10 in what Kubernetes logs.
    "log_verbosity": Option(0, integer(0, 10)),
    "log_flush_frequency": Option("5s", duration("1ms", "24h")),
    "log_vmodule": Option({}, vmodule),
    # What comes from pods of this node.
    "detect_local_mode": Option(CLUSTER_CIDR, choice(CLUSTER_CIDR, NODE_CIDR, BRIDGE, PREFIXED)),
    "detect_local_bridge_interface": Option("", optional(interface)),
    "detect_local_interface_name_prefix": Option("", optional(interface)),
    "node_port_addresses": Option([], networks(PRIMARY)),
    "iptables_masquerade_bit": Option(14, _BIT),
    "iptables_masquerade_all": Option(False, boolean),
    "iptables_localhost_node_ports": Option(True, boolean),
    "iptables_sync_period": Option("30s", _SYNC),
    "iptables_min_sync_period": Option("1s", _MIN_SYNC),
    "ipvs_scheduler": Option("rr", choice(*SCHEDULERS)),
    "ipvs_strict_arp": Option(False, boolean),
    "ipvs_exclude_cidrs": Option([], networks()),
    "ipvs_sync_period": Option("30s", _SYNC),
    "ipvs_min_sync_period": Option("0s", duration("0s", "24h")),
    "ipvs_tcp_timeout": Option("0s", _TIMEOUT),
    "ipvs_tcp_fin_timeout": Option("0s", _TIMEOUT),
    "ipvs_udp_timeout": Option("0s", _TIMEOUT),
    "nftables_masquerade_bit": Option(14, _BIT),
    "nftables_masquerade_all": Option(False, boolean),
    "nftables_sync_period": Option("30s", _SYNC),
    "nftables_min_sync_period": Option("1s", _MIN_SYNC),
    "conntrack_max_per_core": Option(32768, integer(0, _INT32)),
    "conntrack_min": Option(131072, integer(0, _INT32)),
    "conntrack_tcp_established_timeout": Option("24h", _TIMEOUT),
    "conntrack_tcp_close_wait_timeout": Option("1h", _TIMEOUT),
    "conntrack_tcp_be_liberal": Option(False, boolean),
    "conntrack_udp_timeout": Option("0s", _TIMEOUT),
    "conntrack_udp_stream_timeout": Option("0s", _TIMEOUT),
    # A sysctl and no option of kube-proxy; MAX_TCP_KEEPIDLE of linux/tcp.h. 0 leaves it as it is.
    "tcp_keepalive_time": Option(600, integer(0, 32767)),
}
# Cluster-wide variables that count here, by their full names.
CLUSTER_OPTIONS: Mapping[str, Option] = {
    "cluster_api_server": Option("", optional(api_server)),
    "cluster_pod_cidr": Option("", optional(network(4))),
    "cluster_pod_cidr6": Option("", optional(network(6))),
    "cluster_service_cidr": Option("", optional(network(4))),
    "cluster_virtual_cidrs": Option([], networks()),
    "cluster_metallb": Option(False, boolean),
}


def known() -> Dict[str, Option]:
    """All of them by their full names."""
    return {**{PREFIX + name: option for name, option in OPTIONS.items()}, **CLUSTER_OPTIONS}


@dataclasses.dataclass(frozen=True)
class KubeProxy:
    """``values`` by the names of their variables, canonical."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[PREFIX + name]

    @property
    def mode(self) -> str:
        return str(self["mode"])

    @property
    def pod_cidrs(self) -> Tuple[str, ...]:
        both = (self.values["cluster_pod_cidr"], self.values["cluster_pod_cidr6"])
        return tuple(filter(None, both))

    @property
    def exclude_cidrs(self) -> List[str]:
        """What kube-proxy has to leave alone: the ranges that this product programs itself, and those declared."""
        return list(dict.fromkeys([*self.values["cluster_virtual_cidrs"], *self["ipvs_exclude_cidrs"]]))

    @property
    def node_port_addresses(self) -> List[str]:
        """Mode nftables takes "none given" for "primary"."""
        given = list(self["node_port_addresses"])
        return given or ([PRIMARY] if self.mode == NFTABLES else [])


def read_values(document: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[SpecError]]:
    """Canonical values of all variables, and what is wrong with those given, which then have their default. A value of
    None is "not given". Total: raises nothing."""
    options, problems = known(), []
    values = {name: option.read(option.default, name) for name, option in options.items()}
    for name in sorted(set(map(str, document)) - set(options)):
        problems.append(SpecError(name, "is not a variable of role kube_proxy"))
    for name, option in options.items():
        value = document.get(name)
        if value is not None:
            try:
                values[name] = option.read(value, name)
            except SpecError as error:
                problems.append(error)
    if document.get(STRICT_ARP) is None:
        values[STRICT_ARP] = values["cluster_metallb"]
    return values, problems
