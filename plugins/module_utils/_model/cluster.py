# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A whole cluster as declared, and all that can be wrong with it before any node is touched.

Works on declared data alone: no facts, no address is looked up, no node is asked.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .backend import HOST_GW, IPIP, VXLAN, WIREGUARD
from .cluster_ipv6 import ERROR, POD_CIDR6, PUBLIC_ADDRESS6, SUBNET6_VARIABLES, WARNING, Found, check_ipv6, is_given
from .cluster_kube_proxy import check_kube_proxy
from .cluster_wireguard import PRESHARED_KEY, check_wireguard, without_secrets
from .declared import (
    Problem,
    Setting,
    Settings,
    as_problem,
    differing,
    listed,
    parse_settings,
    unknown_variables,
    whole_number,
    wrong_values,
)
from .errors import SpecError
from .ip_version import IPV4, IPV6
from .lease import FlannelConfig, Pool, parse_config, parse_prefix
from .parse import Address, Network, Section, parse_address, parse_network, parse_node_name
from .underlay import parse_rules

ETCD, CONTROL_PLANE, WORKER, NODES = "etcd", "control_plane", "worker", "nodes"
GROUPS = (ETCD, CONTROL_PLANE, WORKER, NODES)
POD_CIDR, SERVICE_CIDR, CLUSTER_NAME = "cluster_pod_cidr", "cluster_service_cidr", "cluster_name"
# Where a node's address is declared, the first that is there counts; the last resort is a name that is an address.
ADDRESS_VARIABLES = ("cluster_node_address", "ansible_host")
# The lease store and the datapath of all nodes must agree on these.
SHARED = (
    CLUSTER_NAME,
    POD_CIDR,
    POD_CIDR6,
    SERVICE_CIDR,
    "flannel_backend_type",
    "flannel_direct_routing",
    "flannel_etcd_prefix",
    *SUBNET6_VARIABLES,
    "flannel_subnet_len",
    "flannel_subnet_max",
    "flannel_subnet_min",
    "flannel_vxlan_gbp",
    "flannel_vxlan_learning",
    "flannel_vxlan_port",
    "flannel_vxlan_vni",
    "flannel_wireguard_keepalive",
    "flannel_wireguard_listen_port",
    "flannel_wireguard_listen_port6",
    "flannel_wireguard_mode",
    PRESHARED_KEY,
)
# More members make every write slower and tolerate failures that do not happen (etcd's FAQ, "maximum cluster size").
MOST_ETCD_MEMBERS = 7
# Special-purpose blocks of RFC 6890 that neither pods nor services can use.
RESERVED = tuple(map(ipaddress.IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))

# Variables of the overlay's backend, and those that tell its interface with the option of module overlay_network.
_DIRECT_ROUTING, _PUBLIC_ADDRESS = "flannel_direct_routing", "flannel_public_address"
_PREFIXES = {VXLAN: "flannel_vxlan_", WIREGUARD: "flannel_wireguard_"}
_OFF = ("false", "no", "off", "0")
_UNDERLAY_VARIABLES = {
    "flannel_interface": "interface",
    "flannel_interface_regex": "interface_regex",
    "flannel_interface_can_reach": "interface_can_reach",
    _PUBLIC_ADDRESS: "public_address",
    PUBLIC_ADDRESS6: "public_address6",
}


@dataclasses.dataclass(frozen=True)
class Host:
    """A member of the cluster. ``item`` is the path of what its address was taken from."""

    name: str
    item: str
    where: str
    address: Optional[Address]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """``groups`` maps every group of the inventory to host names, ``hosts`` holds those in one of GROUPS."""

    groups: Mapping[str, Tuple[str, ...]]
    hosts: Tuple[Host, ...]
    settings: Settings
    prefixes: Tuple[str, ...]

    def group(self, name: str) -> Tuple[str, ...]:
        return self.groups.get(name, ())

    def shared(self, name: str) -> Optional[Setting]:
        """The declaration of a variable that is the same on all nodes; None when there is none."""
        return next(filter(is_given, self.settings.of(name)), None)

    @property
    def backend(self) -> str:
        """How packets travel; empty when that is not known yet."""
        entry = self.shared("flannel_backend_type")
        return VXLAN if entry is None else str(entry.value or "")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found. ``topology`` and ``subnets`` (those of the family that has fewer) are for people and are only
    complete without errors."""

    errors: List[Problem]
    warnings: List[Problem]
    topology: str
    subnets: int


def check_cluster(declaration: Mapping[str, Any]) -> Report:
    """Shape: ``{groups: {name: [host]}, settings: [...], options: {...}, prefixes: [...]}``, see ``declared``.

    All problems are collected. Raises SpecError only when the declaration itself is malformed.
    """
    cluster, errors = _parse(Section(declaration))
    warnings: List[Problem] = []
    for check in (*_CHECKS, *_OVERLAY, *_SERVICES):
        for fatal, problem in check(cluster):
            (errors if fatal else warnings).append(problem)
    errors += wrong_values(cluster.settings)
    config, wrong = _flannel_config(cluster)
    errors += wrong
    pools = config.pools if config else ()
    errors += [problem for pool in pools for problem in _too_few_subnets(cluster, pool)]
    subnets = min(map(subnet_count, pools), default=0)
    return Report(_once(errors), _once(warnings), topology(cluster), subnets)


def topology(cluster: Cluster) -> str:
    """One of single, stacked, external, mixed: where etcd lives, from the groups alone."""
    etcd, control_plane, nodes = (set(cluster.group(name)) for name in (ETCD, CONTROL_PLANE, NODES))
    if len(etcd | nodes) == 1:
        return "single"
    if not etcd & nodes:
        return "external"
    return "stacked" if etcd <= control_plane else "mixed"


def subnet_count(pool: Pool) -> int:
    """How many nodes can get a subnet."""
    first, last = ipaddress.ip_address(pool.subnet_min), ipaddress.ip_address(pool.subnet_max)
    return ((int(last) - int(first)) >> (first.max_prefixlen - pool.subnet_len)) + 1


def _parse(section: Section) -> Tuple[Cluster, List[Problem]]:
    groups = section.section("groups")
    members = {name: tuple(map(str, groups.list(name))) for name in groups.data}
    everybody = members.get("all", ())
    settings = without_secrets(parse_settings(section, everybody))
    prefixes = tuple(map(str, section.list("prefixes")))
    section.finish()
    ours = [name for name in everybody if any(name in members.get(group, ()) for group in GROUPS)]
    errors: List[Problem] = []
    hosts = tuple(_host(name, settings, errors) for name in ours)
    return Cluster(members, hosts, settings, prefixes), errors


def _host(name: str, settings: Settings, errors: List[Problem]) -> Host:
    entry = next((found for found in (settings.on(name, key) for key in ADDRESS_VARIABLES) if is_given(found)), None)
    item = f"hosts.{name}.{entry.name}" if entry else f"hosts.{name}"
    where = entry.where if entry else ""
    if entry and entry.unresolved:
        text = f"cannot be computed before the node is asked ({entry.unresolved}); declare an address"
        errors.append(Problem(item, text, where))
        return Host(name, item, where, None)
    try:
        return Host(name, item, where, parse_address(entry.value if entry else name, item))
    except SpecError as error:
        text = error.problem if entry else "has no address; set ansible_host to one in the inventory"
        if entry and entry.name == "ansible_host":
            text += "; set cluster_node_address when Ansible shall go on connecting by name"
        errors.append(Problem(item, text, where))
        return Host(name, item, where, None)


def _groups(cluster: Cluster) -> Found:
    etcd, nodes = cluster.group(ETCD), cluster.group(NODES)
    for name in (ETCD, CONTROL_PLANE, NODES):
        if not cluster.group(name):
            yield ERROR, Problem(f"groups.{name}", f"has no host; put at least one into group {name}")
    for name in (CONTROL_PLANE, WORKER):
        outside = [host for host in cluster.group(name) if host not in nodes]
        if nodes and outside:
            text = f"lacks {listed(outside)} of group {name}; give it the children {CONTROL_PLANE} and {WORKER}"
            yield ERROR, Problem(f"groups.{NODES}", text)
    if etcd and len(etcd) % 2 == 0:
        text = f"{len(etcd)} members survive no more failures than {len(etcd) - 1}; use an odd number"
        yield WARNING, Problem(f"groups.{ETCD}", text)
    if len(etcd) > MOST_ETCD_MEMBERS:
        text = f"{len(etcd)} members make every write slow; use {MOST_ETCD_MEMBERS} at the most"
        yield WARNING, Problem(f"groups.{ETCD}", text)
    members = {host.name for host in cluster.hosts}
    idle = [name for name in cluster.group("all") if name not in members]
    if idle and members:
        text = f"{listed(idle)}: in none of the groups {', '.join(GROUPS)}, so nothing is done there"
        yield WARNING, Problem("groups", text)


def _names(cluster: Cluster) -> Found:
    seen: Dict[str, str] = {}
    for host in cluster.hosts:
        path = f"hosts.{host.name}"
        try:
            parse_node_name(host.name, path)
        except SpecError as error:
            yield ERROR, Problem(path, f"the name {error.problem}; rename the host in the inventory")
        other = seen.setdefault(host.name.lower(), host.name)
        if other != host.name:
            yield ERROR, Problem(path, f"differs from hosts.{other} in upper and lower case only; rename one of them")


def _addresses(cluster: Cluster) -> Found:
    seen: Dict[Address, Host] = {}
    for host in cluster.hosts:
        if host.address is None:
            continue
        problem = IPV4.host_problem(host.address)
        if not problem and host.address.is_link_local:
            # RFC 3927: a host chooses it by itself, and another one on any conflict.
            problem = "is link-local, and may be another one tomorrow"
        if problem:
            yield ERROR, Problem(host.item, f"{host.address} {problem}; declare the node's own address", host.where)
        other = seen.setdefault(host.address, host)
        if other is not host:
            text = f"{host.address} is also that of {other.item}; every node needs an address of its own"
            yield ERROR, Problem(host.item, text, host.where)


def _shared_values(cluster: Cluster) -> Found:
    hosts = [host.name for host in cluster.hosts if host.name in cluster.group(NODES)]
    for name in SHARED:
        for problem in differing(cluster.settings, name, hosts):
            yield ERROR, problem
    entry = cluster.shared(CLUSTER_NAME)
    if entry is not None:
        try:
            parse_node_name(_known(entry), entry.path)
        except SpecError as error:
            yield ERROR, as_problem(error, entry.path, entry.where)


def _unknown_names(cluster: Cluster) -> Found:
    return unknown_variables(cluster.settings, cluster.prefixes)


def _networks(cluster: Cluster) -> Found:
    for name in (CLUSTER_NAME, POD_CIDR):
        if cluster.shared(name) is None:
            yield ERROR, Problem(name, "is not set; set it in group_vars/all")
    networks: List[Tuple[Setting, Network]] = []
    for name in (POD_CIDR, SERVICE_CIDR):
        entry = cluster.shared(name)
        if entry is None:
            continue
        try:
            network = _cidr(entry)
        except SpecError as error:
            yield ERROR, as_problem(error, entry.path, entry.where)
            continue
        for other, taken in networks:
            if network.overlaps(taken):
                text = f"{network} overlaps {other.name} {taken}; choose networks that share no address"
                yield ERROR, entry.problem(text)
        networks.append((entry, network))
        yield from _inside(cluster, entry, network)


def _known(entry: Setting) -> Any:
    if entry.unresolved:
        raise SpecError(entry.path, f"cannot be computed before a node is asked ({entry.unresolved})")
    return entry.value


def _cidr(entry: Setting) -> Network:
    network = parse_network(_known(entry), entry.path)
    if not isinstance(network, ipaddress.IPv4Network):
        raise SpecError(entry.path, f"must be an IPv4 network, not {network}")
    for block in RESERVED:
        if network.overlaps(block):
            raise SpecError(entry.path, f"{network} overlaps {block}, which no pod or service can use")
    return network


def _inside(cluster: Cluster, entry: Setting, network: Network) -> Found:
    for host in cluster.hosts:
        if host.address is not None and host.address in network:
            text = f"{host.address} is inside {entry.name} {network}; move the network or the node"
            yield ERROR, Problem(host.item, text, host.where)


# How the options of flannel's network configuration are called as variables.
_FLANNEL_VARIABLES = {
    "network": POD_CIDR,
    "subnet_len": "flannel_subnet_len",
    "subnet_min": "flannel_subnet_min",
    "subnet_max": "flannel_subnet_max",
}
_FLANNEL_VARIABLES6 = {"network6": POD_CIDR6, **{name[len("flannel_") :]: name for name in SUBNET6_VARIABLES}}


def _flannel_config(cluster: Cluster) -> Tuple[Optional[FlannelConfig], List[Problem]]:
    """The configuration that the variables make. A refused option is reported, then left out to find the next one."""
    entries = _known_entries(cluster, _FLANNEL_VARIABLES)
    entries.update(_known_entries(cluster, _FLANNEL_VARIABLES6))
    # What concerns pods is the same with all backends but one, and its other options are checked by themselves.
    backend = {"type": IPIP if cluster.backend == IPIP else HOST_GW}
    problems: List[Problem] = []
    while "network" in entries:
        if "network6" not in entries:
            entries = {key: entry for key, entry in entries.items() if key not in _FLANNEL_VARIABLES6}
        values = {key: _number_or_text(entry.value) for key, entry in entries.items()}
        try:
            config = parse_config(Section({**values, "backend": backend}))
            return (None if problems else config), problems
        except SpecError as error:
            entry = entries.pop(error.path)
            problems.append(as_problem(error, entry.path, entry.where))
    return None, problems


def _known_entries(cluster: Cluster, names: Mapping[str, str]) -> Dict[str, Setting]:
    """What is declared, by the option's name. A length of 0 stands for the default."""
    options = {key: cluster.shared(name) for key, name in names.items()}
    found = {key: entry for key, entry in options.items() if entry is not None and not entry.unresolved}
    return {key: entry for key, entry in found.items() if key != "subnet6_len" or whole_number(entry.value) != 0}


def _etcd_prefix(cluster: Cluster) -> Found:
    entry = cluster.shared("flannel_etcd_prefix")
    if entry is None or entry.unresolved:
        return
    try:
        parse_prefix(Section({"prefix": entry.value}))
    except SpecError as error:
        yield ERROR, as_problem(error, entry.path, entry.where)


def _backend_options(cluster: Cluster) -> Found:
    """What is declared for another backend than the one there is."""
    kind = cluster.backend
    if not kind:
        return
    impossible = {HOST_GW: (_DIRECT_ROUTING, _PUBLIC_ADDRESS, PUBLIC_ADDRESS6), WIREGUARD: (_DIRECT_ROUTING,)}
    for name in impossible.get(kind, ()):
        for setting in cluster.settings.of(name):
            if is_given(setting) and str(setting.value).lower() not in _OFF:
                yield (
                    ERROR,
                    setting.problem(f"is not possible with flannel_backend_type {kind}; use vxlan, or leave it out"),
                )
    for setting in cluster.settings.entries:
        owner = next((name for name, prefix in _PREFIXES.items() if setting.name.startswith(prefix)), kind)
        if owner != kind and setting.name in cluster.settings.options:
            yield (
                WARNING,
                setting.problem(f"is of backend {owner}, and flannel_backend_type is {kind}; nothing will read it"),
            )


def _underlay_rules(cluster: Cluster) -> Found:
    for name, key in _UNDERLAY_VARIABLES.items():
        for setting in cluster.settings.of(name):
            if not is_given(setting) or setting.unresolved:
                continue
            try:
                value = _as_list(setting.value) if key == "interface_regex" else setting.value
                parse_rules(Section({key: value}), IPV6 if key.endswith("6") else IPV4)
            except SpecError as error:
                where = error.path[len(key) :]
                yield ERROR, as_problem(error, f"{setting.path}{where}", setting.where)


def _as_list(value: Any) -> Any:
    """Ansible takes a string for a list of its parts."""
    return value.split(",") if isinstance(value, str) else value


def _ipv6(cluster: Cluster) -> Found:
    return check_ipv6(cluster.settings, cluster.group(NODES), cluster.backend)


def _wireguard(cluster: Cluster) -> Found:
    return check_wireguard(cluster.settings, cluster.backend)


def _kube_proxy(cluster: Cluster) -> Found:
    return check_kube_proxy(cluster.settings, cluster.group(NODES))


_CHECKS = (_groups, _names, _addresses, _shared_values, _unknown_names, _networks, _etcd_prefix)
_OVERLAY = (_backend_options, _underlay_rules, _ipv6, _wireguard)
_SERVICES = (_kube_proxy,)


def _number_or_text(value: Any) -> Any:
    number = whole_number(value)
    return value if number is None else number


def _too_few_subnets(cluster: Cluster, pool: Pool) -> Iterator[Problem]:
    nodes, subnets = cluster.group(NODES), subnet_count(pool)
    if len(nodes) <= subnets:
        return
    name, length = f"{POD_CIDR}{pool.version.suffix}", f"flannel_subnet{pool.version.suffix}_len"
    entry = cluster.shared(name)
    span = f"from {pool.subnet_min} to {pool.subnet_max}, flannel's first one is never used"
    text = (
        f"{pool.network} has {subnets} subnets /{pool.subnet_len} ({span}), and {len(nodes)} nodes need one each; "
        f"choose a larger network or a larger {length}"
    )
    yield Problem(name, text, entry.where if entry else "")


def _once(problems: Sequence[Problem]) -> List[Problem]:
    """Two checks may find the same thing, and the first one said it."""
    first: Dict[Tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.path, problem.text), problem)
    return list(first.values())
