# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy's variables make: its configuration and kubeconfig, and what the kernel has to offer it.

Source of the format: KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional

from .kube_proxy_options import IPTABLES, IPVS, NFTABLES, PRIMARY, KubeProxy
from .release import Product, Release

# In every file that role kube_proxy writes on a node: by this they are known to be ours.
BANNER = "Made by role fairlead.cluster.kube_proxy"
USER = "system:kube-proxy"
DIRECTORY = "/etc/fairlead/kube-proxy"


@dataclasses.dataclass(frozen=True)
class KubeProxyRelease(Release):
    """A release of Kubernetes, of which kube-proxy is taken."""

    kind: ClassVar[str] = "kube_proxy_release"


PRODUCT = Product(
    item=KubeProxyRelease,
    role="kube_proxy",
    directory=("kubernetes", "node", "bin"),
    needed=("kube-proxy",),
    programs=("kube-proxy",),
    trial=("kube-proxy", "--version"),
    example="1.36.3",
)
# Commands that kube-proxy calls for nothing but to clean up after other modes, by mode.
_FOR_CLEANING = {
    NFTABLES: ("modprobe", "iptables", "ip6tables"),
    IPTABLES: ("modprobe", "nft"),
    IPVS: ("modprobe", "nft"),
}
_COMMAND_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
# kube-proxy must not load modules, and one variant of iptables does it itself.
_LOAD_IPTABLES = """\
ExecStartPre=-+iptables -w -t nat --list-rules PREROUTING
ExecStartPre=-+ip6tables -w -t nat --list-rules PREROUTING
"""
# What it needs beyond an ordinary service: capabilities for netfilter, IPVS and raw sockets of iptables, and for its
# own score; sysctls; for iptables the lock in /run.
_UNIT = """\
# {banner}; changes here are lost.
[Unit]
Description=kube-proxy, services of the cluster on this node
Documentation=https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/
Wants=network-online.target
After=network-online.target fairlead-restore.service
# While the API server is away it tries for as long as it takes.
StartLimitIntervalSec=0

[Service]
# By this a process is known that runs with older files.
Environment={mark}
{before}ExecStart={command}
Restart=always
RestartSec=5
LimitNOFILE=65536
OOMScoreAdjust={score}
NoNewPrivileges=true
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_RESOURCE
LockPersonality=true
PrivateDevices=true
PrivateTmp=true
ProtectClock=true
ProtectControlGroups=true
ProtectHome=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
# At each start kube-proxy removes what other modes have made, before it has made anything itself, and in mode nftables
# all virtual services of IPVS, others' too. It cannot where it cannot call these.
InaccessiblePaths={hidden}
ProtectSystem=strict
ReadWritePaths=/run
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def configuration(proxy: KubeProxy, kubeconfig: str) -> Dict[str, Any]:
    """KubeProxyConfiguration as plain data, with every option that counts in the mode, its default too."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": proxy.mode,
        "featureGates": proxy["feature_gates"],
        "clientConnection": {
            "kubeconfig": kubeconfig,
            "contentType": proxy["client_content_type"],
            "qps": proxy["client_qps"],
            "burst": proxy["client_burst"],
        },
        "logging": _logging(proxy),
        "hostnameOverride": proxy["hostname_override"],
        "bindAddress": proxy["bind_address"],
        "bindAddressHardFail": proxy["bind_address_hard_fail"],
        "healthzBindAddress": str(proxy["healthz_bind_address"]),
        "metricsBindAddress": str(proxy["metrics_bind_address"]),
        "enableProfiling": proxy["enable_profiling"],
        "showHiddenMetricsForVersion": proxy["show_hidden_metrics_for_version"],
        "oomScoreAdj": proxy["oom_score_adj"],
        "configSyncPeriod": str(proxy["config_sync_period"]),
        "detectLocalMode": proxy["detect_local_mode"],
        "detectLocal": {
            "bridgeInterface": proxy["detect_local_bridge_interface"],
            "interfaceNamePrefix": proxy["detect_local_interface_name_prefix"],
        },
        "clusterCIDR": ",".join(proxy.pod_cidrs),
        "nodePortAddresses": proxy.node_port_addresses,
        "conntrack": _conntrack(proxy),
        **_of_mode(proxy),
    }


def _logging(proxy: KubeProxy) -> Dict[str, Any]:
    vmodule = [{"filePattern": pattern, "verbosity": level} for pattern, level in proxy["log_vmodule"]]
    return {
        "format": proxy["log_format"],
        "verbosity": proxy["log_verbosity"],
        "flushFrequency": str(proxy["log_flush_frequency"]),
        **({"vmodule": vmodule} if vmodule else {}),
    }


def _conntrack(proxy: KubeProxy) -> Dict[str, Any]:
    return {
        "maxPerCore": proxy["conntrack_max_per_core"],
        "min": proxy["conntrack_min"],
        "tcpEstablishedTimeout": str(proxy["conntrack_tcp_established_timeout"]),
        "tcpCloseWaitTimeout": str(proxy["conntrack_tcp_close_wait_timeout"]),
        "tcpBeLiberal": proxy["conntrack_tcp_be_liberal"],
        "udpTimeout": str(proxy["conntrack_udp_timeout"]),
        "udpStreamTimeout": str(proxy["conntrack_udp_stream_timeout"]),
    }


def _of_mode(proxy: KubeProxy) -> Dict[str, Any]:
    """The sections that the mode reads: ipvs takes its masquerade settings from section iptables."""
    periods = {
        "syncPeriod": str(proxy[f"{proxy.mode}_sync_period"]),
        "minSyncPeriod": str(proxy[f"{proxy.mode}_min_sync_period"]),
    }
    if proxy.mode == NFTABLES:
        return {"nftables": {**_masquerade(proxy, NFTABLES), **periods}}
    if proxy.mode == IPTABLES:
        local = {"localhostNodePorts": proxy["iptables_localhost_node_ports"]}
        return {"iptables": {**_masquerade(proxy, IPTABLES), **local, **periods}}
    ipvs = {
        "scheduler": proxy["ipvs_scheduler"],
        "excludeCIDRs": proxy.exclude_cidrs,
        "strictARP": proxy["ipvs_strict_arp"],
        "tcpTimeout": str(proxy["ipvs_tcp_timeout"]),
        "tcpFinTimeout": str(proxy["ipvs_tcp_fin_timeout"]),
        "udpTimeout": str(proxy["ipvs_udp_timeout"]),
    }
    return {"iptables": _masquerade(proxy, IPTABLES), "ipvs": {**ipvs, **periods}}


def _masquerade(proxy: KubeProxy, section: str) -> Dict[str, Any]:
    return {
        "masqueradeBit": proxy[f"{section}_masquerade_bit"],
        "masqueradeAll": proxy[f"{section}_masquerade_all"],
    }


def kubeconfig(proxy: KubeProxy) -> Dict[str, Any]:
    """Names files instead of holding keys: a renewed certificate is read without a restart."""
    name = "fairlead"
    cluster = {"server": proxy.values["cluster_api_server"], "certificate-authority": proxy["ca_file"]}
    user = {"client-certificate": proxy["cert_file"], "client-key": proxy["key_file"]}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": USER, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": USER}}],
        "current-context": name,
    }


def kernel_modules(proxy: KubeProxy) -> List[str]:
    """What has to be in the kernel before kube-proxy starts, in this mode."""
    if proxy.mode == NFTABLES:
        return ["nf_conntrack", "nf_tables"]
    if proxy.mode == IPTABLES:
        # Which of its modules are needed says the variant of the command: it brings them.
        return ["nf_conntrack"]
    return ["nf_conntrack", "ip_set", "dummy", "ip_vs", f"ip_vs_{proxy['ipvs_scheduler']}"]


def sysctls(proxy: KubeProxy) -> Dict[str, int]:
    """What the mode sets for the whole node, so that the values from before come back when the mode or kube-proxy goes.
    kube-proxy sets the same ones, and leaves them."""
    if proxy.mode == IPTABLES:
        return {"net.ipv4.conf.all.route_localnet": 1} if _localhost_node_ports(proxy) else {}
    if proxy.mode == NFTABLES:
        return {}
    arp = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    keepalive = {"net.ipv4.tcp_keepalive_time": proxy["tcp_keepalive_time"]}
    return {
        "net.ipv4.vs.conntrack": 1,
        "net.ipv4.vs.expire_nodest_conn": 1,
        "net.ipv4.vs.expire_quiescent_template": 1,
        **(arp if proxy["ipvs_strict_arp"] else {}),
        **(keepalive if proxy["tcp_keepalive_time"] else {}),
    }


def _localhost_node_ports(proxy: KubeProxy) -> bool:
    """Whether mode iptables offers node ports on 127.0.0.1: only where that address may have any."""
    given = [entry for entry in proxy.node_port_addresses if entry != PRIMARY]
    loopback = ipaddress.ip_network("127.0.0.0/8")
    reached = any(net.version == 4 and net.overlaps(loopback) for net in map(ipaddress.ip_network, given))
    return bool(proxy["iptables_localhost_node_ports"]) and (reached or not proxy.node_port_addresses)


def optional_sysctls(proxy: KubeProxy) -> Dict[str, int]:
    """Time-outs of connection tracking, for the same reason; they come with its kernel module."""
    names = {
        "conntrack_tcp_established_timeout": "tcp_timeout_established",
        "conntrack_tcp_close_wait_timeout": "tcp_timeout_close_wait",
        "conntrack_udp_timeout": "udp_timeout",
        "conntrack_udp_stream_timeout": "udp_timeout_stream",
    }
    timeouts = {sysctl: proxy[name].seconds for name, sysctl in names.items()}
    liberal = {"tcp_be_liberal": 1} if proxy["conntrack_tcp_be_liberal"] else {}
    return {f"net.netfilter.nf_conntrack_{name}": value for name, value in {**timeouts, **liberal}.items() if value}


def unit_text(proxy: KubeProxy, command: str, mark: str) -> str:
    """The unit that starts kube-proxy by ``command``, with ``mark``, an assignment, in its environment."""
    before = "" if proxy.mode == NFTABLES else _LOAD_IPTABLES
    paths = [f"-{directory}/{name}" for name in _FOR_CLEANING[proxy.mode] for directory in _COMMAND_DIRECTORIES]
    words = {"banner": BANNER, "before": before, "command": command, "mark": mark, "hidden": " ".join(paths)}
    return _UNIT.format(**words, score=proxy["oom_score_adj"])


def as_yaml(document: Mapping[str, Any]) -> str:
    """Plain data as YAML in the order given, behind our mark. Strings are those of JSON, which YAML takes too."""
    return "\n".join([f"# {BANNER}; changes here are lost.", "---", *_lines(document), ""])


def _lines(data: Any, indent: str = "") -> Iterator[str]:
    for key, value in data.items():
        inner = value if isinstance(value, (dict, list)) and value else None
        if inner is None:
            yield f"{indent}{key}: {_scalar(value)}"
        elif isinstance(inner, dict):
            yield f"{indent}{key}:"
            yield from _lines(inner, indent + "  ")
        else:
            yield f"{indent}{key}:"
            yield from _entries(inner, indent + "  ")


def _entries(entries: List[Any], indent: str) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, dict):
            first, *rest = _lines(entry, indent + "  ")
            yield f"{indent}- {first.strip()}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(entry)}"


def _scalar(value: Optional[Any]) -> str:
    return json.dumps(value)
