# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Network namespaces attached to CNI networks: what is asked for, what is there, and what plugins answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, ClassVar, Dict, Hashable, List, Mapping, Optional, Tuple

from .cni import ConfList, load_conflist, parse_name
from .errors import SpecError
from .item import BaseItem
from .parse import Section

# Where `ip netns` and runtimes mount namespaces by name (ip-netns(8)).
NAMESPACE_DIRECTORY = "/run/netns"
_PORT_HIGH = 65535
# Ports of protocols that the portmap plugin knows.
_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclasses.dataclass(frozen=True)
class Namespace(BaseItem):
    """A network namespace with a name under /run/netns. ``ours``: made here, so to be removed here."""

    kind: ClassVar[str] = "network_namespace"
    name: str
    ours: bool

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"network namespace {self.name}{'' if self.ours else ' (made by others)'}"


@dataclasses.dataclass(frozen=True)
class Attachment(BaseItem):
    """One interface of a container on one network.

    ``config`` is the text of the conflist it was (or shall be) made with, ``capability_args`` and ``result`` are JSON;
    result is empty when it is not known. ``problem`` says why CHECK is not satisfied, empty when it is.
    """

    kind: ClassVar[str] = "cni_attachment"
    network: str
    container_id: str
    ifname: str
    netns: str
    config: str
    capability_args: str = "{}"
    result: str = ""
    problem: str = ""

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.network, self.container_id, self.ifname)

    @property
    def file_name(self) -> str:
        """The name that libcni gives the cached result."""
        return f"{self.network}-{self.container_id}-{self.ifname}"

    @property
    def conflist(self) -> ConfList:
        return load_conflist(self.config, f"configuration of network {self.network}")

    def same_as(self, wanted: Attachment) -> bool:
        """Whether nothing has to be done to have the wanted one."""
        return (
            not self.problem
            and os.path.realpath(self.netns) == os.path.realpath(wanted.netns)
            and self.conflist == wanted.conflist
            and json.loads(self.capability_args) == json.loads(wanted.capability_args)
        )

    def to_dict(self) -> Dict[str, Any]:
        digest = hashlib.sha256(self.config.encode()).hexdigest()[:12] if self.config else ""
        return {
            "kind": self.kind,
            "network": self.network,
            "container_id": self.container_id,
            "ifname": self.ifname,
            "netns": self.netns,
            "config_sha256": digest,
            "capability_args": json.loads(self.capability_args),
            "addresses": addresses_of(self.result),
            "problem": self.problem,
        }

    def __str__(self) -> str:
        addresses = " ".join(addresses_of(self.result))
        shown = f" {addresses}" if addresses else ""
        problem = f" ({self.problem})" if self.problem else ""
        where = f" in {self.netns}" if self.netns else ""
        return f"attachment {self.network} {self.container_id} {self.ifname}{where}{shown}{problem}"


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a user asks for. ``namespace`` is empty when the network namespace is given by path."""

    state: str
    network: str
    container_id: str
    ifname: str
    netns: str
    namespace: str
    capability_args: str
    conf_dir: str
    plugin_dirs: Tuple[str, ...]
    cache_dir: str


def parse_wish(document: Mapping[str, Any]) -> Wish:
    """Shape: ``{state, network, container_id, netns, ifname?, capability_args?, conf_dir, plugin_dirs, cache_dir}``.

    ``network`` is the name of a network or the path of its file, ``netns`` a name or a path. Raises SpecError.
    """
    section = Section(document)
    netns = section.text("netns")
    by_path = netns.startswith("/")
    wish = Wish(
        state=section.text("state", "present", ("present", "checked", "absent")),
        network=section.text("network"),
        container_id=parse_name(section.text("container_id"), "container_id"),
        ifname=_parse_ifname(section),
        netns=netns if by_path else os.path.join(NAMESPACE_DIRECTORY, parse_name(netns, "netns")),
        namespace="" if by_path else netns,
        capability_args=json.dumps(_parse_capability_args(section), sort_keys=True),
        conf_dir=section.text("conf_dir", "/etc/cni/net.d"),
        plugin_dirs=tuple(section.list("plugin_dirs", ["/usr/lib/cni", "/opt/cni/bin"])),
        cache_dir=section.text("cache_dir", "/var/lib/cni"),
    )
    section.finish()
    if not wish.network.startswith("/"):
        parse_name(wish.network, "network")
    return wish


def _parse_ifname(section: Section) -> str:
    name = section.interface("ifname", "eth0")
    if name in (".", ".."):
        raise SpecError(section.at("ifname"), f"must be an interface name, not {name!r}")
    return name


def _parse_capability_args(section: Section) -> Dict[str, Any]:
    """Only the form of port mappings is known here; other capabilities are between the user and the plugin."""
    arguments = section.section("capability_args", {})
    known = dict(arguments.data)
    if known.get("portMappings") is not None:
        known["portMappings"] = [_parse_mapping(entry) for entry in arguments.sections("portMappings")]
    return known


def _parse_mapping(section: Section) -> Dict[str, Any]:
    mapping: Dict[str, Any] = {
        "hostPort": section.integer("hostPort", 1, _PORT_HIGH),
        "containerPort": section.integer("containerPort", 1, _PORT_HIGH),
        "protocol": section.text("protocol", "tcp", _PROTOCOLS),
    }
    address = section.address("hostIP", None)
    section.finish()
    return {**mapping, "hostIP": str(address)} if address is not None else mapping


def addresses_of(result: str) -> List[str]:
    """Addresses with prefix that a result gives to the container, in its order."""
    data = json.loads(result) if result else {}
    interfaces = data.get("interfaces") or []
    return [str(ip["address"]) for ip in data.get("ips") or [] if _in_container(ip.get("interface"), interfaces)]


def _in_container(index: Optional[int], interfaces: List[Mapping[str, Any]]) -> bool:
    """An address without interface is the container's; only plugins for addresses alone leave it out."""
    if index is None or not 0 <= index < len(interfaces):
        return True
    return bool(interfaces[index].get("sandbox"))
