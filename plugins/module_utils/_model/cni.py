# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""CNI network configuration lists (CNI specification 0.3.0 to 1.1.0): reading, composing, the text of the file.

Options of single plugins are the business of ``cni_options``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from typing import Any, ClassVar, Dict, Hashable, List, Mapping, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Network, Section, parse_network

# Versions that know configuration lists; plugins say themselves which of them they support.
CNI_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# CHECK, and with it the result of ADD as input of DEL, came with 0.4.0.
_BEFORE_CHECK = ("0.2.0", "0.3.0", "0.3.1")
# Specification, sections "Network configuration format" and "Parameters": the same form for names and container ids.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# RFC 791: the least a link must carry; 65535 is the largest IPv4 packet.
MTU_LOW, MTU_HIGH = 68, 65535
LOOPBACK_NAME = "loopback"


@dataclasses.dataclass(frozen=True)
class ConfList:
    """One network: its name, the version of the format, and the plugins in the order of ADD, as plain JSON data."""

    name: str
    cni_version: str
    plugins: Tuple[Mapping[str, Any], ...]
    disable_check: bool = False

    @property
    def text(self) -> str:
        """The content of the conflist file."""
        data: Dict[str, Any] = {"cniVersion": self.cni_version, "name": self.name}
        if self.disable_check:
            data["disableCheck"] = True
        data["plugins"] = list(self.plugins)
        return json.dumps(data, indent=2) + "\n"

    @property
    def programs(self) -> List[str]:
        """Names of all plugin programs that an ADD starts, address management included, each one once."""
        names = [str(plugin["type"]) for plugin in self.plugins]
        names += [str(plugin["ipam"]["type"]) for plugin in self.plugins if _ipam_type(plugin)]
        return sorted(set(names), key=names.index)

    @property
    def knows_check(self) -> bool:
        return self.cni_version not in _BEFORE_CHECK

    def bridges(self) -> List[str]:
        """Devices that the bridge plugin makes at the first ADD and never removes."""
        return [str(plugin.get("bridge") or "cni0") for plugin in self.plugins if plugin["type"] == "bridge"]

    def subnets(self) -> List[Network]:
        """Networks that host-local gives addresses from; what is not a network is left out."""
        found = []
        for plugin in self.plugins:
            for entry in _ipam_entries(plugin):
                with contextlib.suppress(SpecError):
                    found.append(parse_network(entry.get("subnet"), "subnet"))
        return found

    def reservation_directories(self) -> List[str]:
        """Where host-local keeps one file for each address in use."""
        found = []
        for plugin in self.plugins:
            if _ipam_type(plugin) == "host-local":
                found.append(f"{plugin['ipam'].get('dataDir') or '/var/lib/cni/networks'}/{self.name}")
        return found


@dataclasses.dataclass(frozen=True)
class Remains(BaseItem):
    """What plugins leave on the node when nothing is attached any more: a bridge, host-local's bookkeeping."""

    kind: ClassVar[str] = "cni_remains"
    what: str
    name: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.what, self.name)

    def __str__(self) -> str:
        return f"{self.what} {self.name}"


def _ipam_type(plugin: Mapping[str, Any]) -> str:
    ipam = plugin.get("ipam")
    return str(ipam.get("type") or "") if isinstance(ipam, Mapping) else ""


def _ipam_entries(plugin: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """Mappings that may hold a subnet. The file may be of others: what is not of host-local's shape is left out."""
    ipam = plugin.get("ipam")
    if not isinstance(ipam, Mapping):
        return []
    ranges = ipam.get("ranges")
    sets = [part for part in ranges if isinstance(part, list)] if isinstance(ranges, list) else []
    return [entry for entry in [ipam, *itertools.chain.from_iterable(sets)] if isinstance(entry, Mapping)]


def load_conflist(text: str, path: str) -> ConfList:
    """Read a configuration list as a runtime does: only what every list must have is checked.

    ``path`` is the file's name. Raises SpecError.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SpecError(path, f"is not JSON: {error}") from None
    section = Section(data, path)
    if "plugins" not in section.data:
        raise SpecError(path, "has no list 'plugins': single plugin configurations ended with CNI 1.0.0")
    for plugin in section.sections("plugins"):
        parse_plugin_type(plugin)
    if not section.data["plugins"]:
        raise SpecError(section.at("plugins"), "must not be empty")
    return ConfList(
        name=parse_name(section.text("name"), section.at("name")),
        # The specification's default for configurations that say nothing.
        cni_version=section.text("cniVersion", "0.2.0"),
        plugins=tuple(section.data["plugins"]),
        # libcni takes the word as a string as well.
        disable_check=str(section.data.get("disableCheck", False)).lower() == "true",
    )


def parse_name(value: str, path: str) -> str:
    """A network name or container id."""
    if not _NAME.fullmatch(value):
        raise SpecError(path, f"must start with a letter or digit and hold only these, '_', '.' and '-', not {value!r}")
    return value


def parse_plugin_type(section: Section) -> str:
    """The name of a plugin's program."""
    name = section.text("type")
    if not name or name in (".", "..") or "/" in name or "\\" in name or name != name.strip():
        raise SpecError(section.at("type"), f"must be the name of a program in the plugin directory, not {name!r}")
    return name


def loopback_list(cni_version: str) -> ConfList:
    """The network that runtimes attach every pod to first: it sets ``lo`` up."""
    return ConfList(LOOPBACK_NAME, cni_version, ({"type": "loopback"},))


def bridge_plugins(section: Section) -> List[Dict[str, Any]]:
    """The short form for a node of an overlay: a bridge with the node's own subnet behind it.

    Shape: ``{name?, subnets, routes?, mtu?, hairpin?, default_gateway?, masquerade?, portmap?}``; subnets holds one
    network, or one of each family. MTU 0 leaves it to the kernel.
    """
    subnets = _subnets(section)
    routes = [
        _route_through(subnets, parse_network(value, f"{section.at('routes')}[{index}]"), section.at("routes"))
        for index, value in enumerate(section.list("routes", []))
    ]
    plugin: Dict[str, Any] = {
        "type": "bridge",
        "bridge": section.interface("name", "cni0"),
        "isGateway": True,
        "isDefaultGateway": section.boolean("default_gateway", True),
        "ipMasq": section.boolean("masquerade", False),
        "hairpinMode": section.boolean("hairpin", True),
    }
    mtu = parse_mtu(section)
    if mtu:
        plugin["mtu"] = mtu
    plugin["ipam"] = {
        "type": "host-local",
        "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
        "routes": routes,
    }
    portmap = section.boolean("portmap", True)
    section.finish()
    return [plugin, {"type": "portmap", "capabilities": {"portMappings": True}}] if portmap else [plugin]


def _route_through(subnets: List[Network], network: Network, path: str) -> Dict[str, str]:
    """The gateway is host-local's default, the first host. It is written down although plugins would find it: the
    bridge plugin's CHECK looks for a route without gateway when the configuration names none, and fails.
    """
    for subnet in subnets:
        if subnet.version == network.version:
            return {"dst": str(network), "gw": str(subnet.network_address + 1)}
    raise SpecError(path, f"{network} is of an address family that subnets does not have")


def _subnets(section: Section) -> List[Network]:
    path = section.at("subnets")
    subnets = [parse_pod_subnet(value, f"{path}[{index}]") for index, value in enumerate(section.list("subnets"))]
    if not subnets:
        raise SpecError(path, "must hold the node's pod subnet, like 10.244.1.0/24")
    if len({subnet.version for subnet in subnets}) < len(subnets):
        raise SpecError(path, "must hold one network of each address family at the most")
    return subnets


def parse_pod_subnet(value: Any, path: str) -> Network:
    """A network that host-local can give addresses from: it needs a gateway's and one pod's besides base and last."""
    network = parse_network(value, path)
    if network.max_prefixlen - network.prefixlen < 2:
        raise SpecError(path, f"{network} is too small: /{network.max_prefixlen - 2} is the smallest that holds a pod")
    return network


def parse_mtu(section: Section, key: str = "mtu") -> int:
    """Bytes; 0 and absent leave it to the kernel."""
    mtu = section.integer(key, 0, MTU_HIGH, 0)
    if 0 < mtu < MTU_LOW:
        raise SpecError(section.at(key), f"must be 0 (kernel default) or {MTU_LOW} to {MTU_HIGH}, not {mtu}")
    return mtu
