# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the reference plugins that we know in full, so that a misspelt or contradicting one is refused here
instead of being ignored there. Source: configuration structures of containernetworking/plugins v1.9.1.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from .cni import CNI_VERSIONS, ConfList, parse_mtu, parse_name, parse_plugin_type, parse_pod_subnet
from .errors import SpecError
from .parse import Address, Network, Section

# Set by the runtime when it calls a plugin; in a file they would be overwritten or passed on wrongly.
_FILLED_IN = ("name", "cniVersion", "runtimeConfig", "prevResult", "args")
_BRIDGE_SWITCHES = (
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "hairpinMode",
    "promiscMode",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
)
# 12 bits of IEEE 802.1Q; 4095 is reserved.
_VLAN_HIGH = 4094
_UINT32_HIGH = 2**32 - 1


def parse_conflist(data: Mapping[str, Any]) -> ConfList:
    """Read strictly what we are going to write. Shape: ``{name, cni_version?, disable_check?, plugins}``.

    Raises SpecError with the path of the option, for example ``plugins[0].ipam.ranges[0][0].subnet``.
    """
    section = Section(data)
    plugins = section.sections("plugins")
    if not plugins:
        raise SpecError("plugins", "must not be empty")
    for plugin in plugins:
        _parse_plugin(plugin)
    conflist = ConfList(
        name=parse_name(section.text("name"), section.at("name")),
        cni_version=section.text("cni_version", "1.0.0", CNI_VERSIONS),
        plugins=tuple(dict(plugin.data) for plugin in plugins),
        disable_check=section.boolean("disable_check", False),
    )
    section.finish()
    return conflist


def _parse_plugin(section: Section) -> None:
    for key in section.data:
        if key in _FILLED_IN or str(key).startswith("cni.dev/"):
            raise SpecError(section.at(key), "is filled in by the runtime and does not belong into a configuration")
    parser = _PLUGINS.get(parse_plugin_type(section))
    _parse_capabilities(section)
    if parser is not None:
        section.get("dns", None)
        parser(section)
        section.finish()
    elif section.get("ipam", None) is not None:
        _parse_ipam(section.section("ipam"))


def _parse_capabilities(section: Section) -> None:
    capabilities = section.section("capabilities", {})
    for name in capabilities.data:
        capabilities.boolean(name)


def _parse_bridge(section: Section) -> None:
    section.interface("bridge", "cni0")
    parse_mtu(section)
    switches = {name: section.boolean(name, False) for name in _BRIDGE_SWITCHES}
    if switches["hairpinMode"] and switches["promiscMode"]:
        raise SpecError(section.at("promiscMode"), "excludes hairpinMode; leave one of them out")
    section.text("ipMasqBackend", None, ("iptables", "nftables"))
    vlan = section.integer("vlan", 0, _VLAN_HIGH, 0)
    trunk = section.sections("vlanTrunk", [])
    if vlan and trunk:
        raise SpecError(section.at("vlanTrunk"), "excludes vlan; leave one of them out")
    for entry in trunk:
        _parse_trunk(entry)
    if section.get("ipam", None) is not None:
        # An empty mapping is the plugin's form of "layer 2 only".
        ipam = section.section("ipam")
        if ipam.data:
            _parse_ipam(ipam)


def _parse_trunk(section: Section) -> None:
    single = section.integer("id", 1, _VLAN_HIGH, 0)
    low = section.integer("minID", 1, _VLAN_HIGH, 0)
    high = section.integer("maxID", 1, _VLAN_HIGH, 0)
    section.finish()
    if not single and not (low and high):
        raise SpecError(section.path, "must hold id, or both minID and maxID")
    if low > high:
        raise SpecError(section.at("minID"), f"{low} is above maxID {high}")


def _parse_portmap(section: Section) -> None:
    section.text("backend", None, ("iptables", "nftables"))
    section.boolean("snat", True)
    section.boolean("masqAll", False)
    section.integer("markMasqBit", 0, 31, 13)
    section.text("externalSetMarkChain", None)
    for key in ("conditionsV4", "conditionsV6"):
        for index, word in enumerate(section.list(key, [])):
            if not isinstance(word, str):
                raise SpecError(f"{section.at(key)}[{index}]", f"must be a string, not {word!r}")
    if section.data.get("externalSetMarkChain") and section.data.get("markMasqBit") is not None:
        raise SpecError(section.at("externalSetMarkChain"), "excludes markMasqBit; leave one of them out")


def _parse_loopback(section: Section) -> None:
    """It has no options of its own."""


def _parse_ipam(section: Section) -> None:
    if parse_plugin_type(section) != "host-local":
        return
    ranges = _ranges(section)
    if not ranges:
        raise SpecError(section.path, "needs ranges (or subnet) to give addresses from")
    for index, (path, network) in enumerate(ranges):
        for other_path, other in ranges[:index]:
            if _overlap(network, other):
                raise SpecError(path, f"{network} overlaps {other} of {other_path}")
    for route in section.sections("routes", []):
        _parse_route(route)
    for key in ("dataDir", "resolvConf"):
        value = section.text(key, None)
        if value and not value.startswith("/"):
            raise SpecError(section.at(key), f"must be absolute, not {value!r}")
    section.finish()


def _ranges(section: Section) -> List[Tuple[str, Network]]:
    """Subnets by path. A single range may stand in the section itself, the form of versions before range sets."""
    found: List[Tuple[str, Network]] = []
    if section.get("subnet", None) is not None:
        found.append((section.at("subnet"), _parse_range(section)))
    for number, range_set in enumerate(section.list("ranges", [])):
        path = f"{section.at('ranges')}[{number}]"
        if not isinstance(range_set, list) or not range_set:
            raise SpecError(path, "must be a list of ranges: ranges is a list of lists")
        sections = [Section(member, f"{path}[{index}]") for index, member in enumerate(range_set)]
        parsed = [(entry.at("subnet"), _parse_range(entry)) for entry in sections]
        for entry in sections:
            entry.finish()
        if len({network.version for _path, network in parsed}) > 1:
            raise SpecError(path, "must hold one address family; put the other one into a list of its own")
        found += parsed
    return found


def _parse_range(section: Section) -> Network:
    network = parse_pod_subnet(section.get("subnet"), section.at("subnet"))
    start, end = (_inside(section, key, network) for key in ("rangeStart", "rangeEnd"))
    _inside(section, "gateway", network)
    if start is not None and end is not None and int(start) > int(end):
        raise SpecError(section.at("rangeStart"), f"{start} is above rangeEnd {end}")
    return network


def _inside(section: Section, key: str, network: Network) -> Optional[Address]:
    address: Optional[Address] = section.address(key, None)
    if address is not None and address not in network:
        raise SpecError(section.at(key), f"{address} is outside subnet {network}")
    return address


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _parse_route(section: Section) -> None:
    network = section.network("dst")
    gateway = section.address("gw", None)
    if gateway is not None and gateway.version != network.version:
        raise SpecError(section.at("gw"), f"{gateway} is of another address family than dst {network}")
    for key in ("mtu", "advmss", "priority", "table", "scope"):
        section.integer(key, 0, _UINT32_HIGH, 0)
    section.finish()


_PLUGINS: Dict[str, Callable[[Section], None]] = {
    "bridge": _parse_bridge,
    "portmap": _parse_portmap,
    "loopback": _parse_loopback,
}
