# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of addresses and ports by which rules tell which packets of services are masqueraded, let in, or refused. Each
mirrors an ipset of kube-proxy in mode ipvs (pkg/proxy/ipvs/ipset.go).

An entry is a tuple: (address, protocol, port), with the source address or network as the fourth for sets of these; the
port alone; or the address alone.
"""

from __future__ import annotations

from typing import Dict, Iterable, Mapping, NamedTuple, Set, Tuple, Union

from .ip_version import IPV6, VERSIONS, IpVersion

Entry = Tuple[Union[str, int], ...]
SetEntries = Mapping[str, Mapping[IpVersion, Tuple[Entry, ...]]]
IP_PORT, IP_PORT_IP, IP_PORT_NET = "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net"
PORT, IP = "bitmap:port", "hash:ip"

# Endpoints of the node, each with itself as the source: connections to a service that come back to where they started.
HAIRPIN = "hairpin"
CLUSTER_IP = "cluster_ip"
EXTERNAL_IP = "external_ip"
# "local": of services whose traffic from outside stays on the node and keeps the client's address.
EXTERNAL_IP_LOCAL = "external_ip_local"
# All addresses of load balancers, those of "local" services among them.
LOAD_BALANCER = "load_balancer"
LOAD_BALANCER_LOCAL = "load_balancer_local"
# Those that only some sources may use; the sources; and the balancer's own address as the source, where the node may
# use it too: a node that connects to an address which it has itself does so from this very address.
LOAD_BALANCER_RESTRICTED = "load_balancer_restricted"
LOAD_BALANCER_SOURCES = "load_balancer_sources"
LOAD_BALANCER_OWN_SOURCE = "load_balancer_own_source"
# Those that the node itself must not use: its address is in none of the allowed networks. kube-proxy has rules for it.
LOAD_BALANCER_NOT_FROM_NODE = "load_balancer_not_from_node"
NODE_PORTS = {"tcp": "node_port_tcp", "udp": "node_port_udp", "sctp": "node_port_sctp"}
NODE_PORTS_LOCAL = {"tcp": "node_port_local_tcp", "udp": "node_port_local_udp", "sctp": "node_port_local_sctp"}
HEALTH_CHECK_PORT = "health_check_port"
# What the dummy device has. Nothing but services answers there.
VIRTUAL_ADDRESS = "virtual_address"


class SetForm(NamedTuple):
    """``type`` is that of the ipset, ``kube_proxy`` its name there, empty where kube-proxy has none."""

    type: str
    kube_proxy: str


FORMS: Dict[str, SetForm] = {
    HAIRPIN: SetForm(IP_PORT_IP, "KUBE-LOOP-BACK"),
    CLUSTER_IP: SetForm(IP_PORT, "KUBE-CLUSTER-IP"),
    EXTERNAL_IP: SetForm(IP_PORT, "KUBE-EXTERNAL-IP"),
    EXTERNAL_IP_LOCAL: SetForm(IP_PORT, "KUBE-EXTERNAL-IP-LOCAL"),
    LOAD_BALANCER: SetForm(IP_PORT, "KUBE-LOAD-BALANCER"),
    LOAD_BALANCER_LOCAL: SetForm(IP_PORT, "KUBE-LOAD-BALANCER-LOCAL"),
    LOAD_BALANCER_RESTRICTED: SetForm(IP_PORT, "KUBE-LOAD-BALANCER-FW"),
    LOAD_BALANCER_SOURCES: SetForm(IP_PORT_NET, "KUBE-LOAD-BALANCER-SOURCE-CIDR"),
    LOAD_BALANCER_OWN_SOURCE: SetForm(IP_PORT_IP, "KUBE-LOAD-BALANCER-SOURCE-IP"),
    LOAD_BALANCER_NOT_FROM_NODE: SetForm(IP_PORT, ""),
    NODE_PORTS["tcp"]: SetForm(PORT, "KUBE-NODE-PORT-TCP"),
    NODE_PORTS["udp"]: SetForm(PORT, "KUBE-NODE-PORT-UDP"),
    NODE_PORTS["sctp"]: SetForm(IP_PORT, "KUBE-NODE-PORT-SCTP-HASH"),
    NODE_PORTS_LOCAL["tcp"]: SetForm(PORT, "KUBE-NODE-PORT-LOCAL-TCP"),
    NODE_PORTS_LOCAL["udp"]: SetForm(PORT, "KUBE-NODE-PORT-LOCAL-UDP"),
    NODE_PORTS_LOCAL["sctp"]: SetForm(IP_PORT, "KUBE-NODE-PORT-LOCAL-SCTP-HASH"),
    HEALTH_CHECK_PORT: SetForm(PORT, "KUBE-HEALTH-CHECK-NODE-PORT"),
    VIRTUAL_ADDRESS: SetForm(IP, "KUBE-IPVS-IPS"),
}
# linux/netfilter/ipset/ip_set.h IPSET_MAXNAMELEN is 32 with the closing zero; kube-proxy cuts its names to it.
LONGEST_NAME = 31


def kube_proxy_name(name: str, version: IpVersion) -> str:
    """What kube-proxy calls its set of one IP version; empty where it has none."""
    found = FORMS[name].kube_proxy
    return found.replace("KUBE-", "KUBE-6-", 1)[:LONGEST_NAME] if version is IPV6 else found


def entry_text(entry: Entry) -> str:
    """As ipset writes it: "10.96.0.10,udp:53"."""
    if len(entry) == 1:
        return str(entry[0])
    address, protocol, port, *source = entry
    return ",".join([f"{address},{protocol}:{port}", *map(str, source)])


class SetBuilder:
    """Collects entries; each is there once."""

    def __init__(self) -> None:
        self._found: Dict[Tuple[str, IpVersion], Set[Entry]] = {}

    def add(self, name: str, version: IpVersion, *entries: Entry) -> None:
        self._found.setdefault((name, version), set()).update(entries)

    def sets(self, versions: Iterable[IpVersion] = VERSIONS) -> SetEntries:
        """All sets, those without entries too."""
        return {name: {version: self._sorted(name, version) for version in versions} for name in FORMS}

    def _sorted(self, name: str, version: IpVersion) -> Tuple[Entry, ...]:
        return tuple(sorted(self._found.get((name, version), ())))
