# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Typed reading of declared data. Every refusal carries the path of the item, for example ``nodes[2].address``."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .errors import SpecError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

REQUIRED: Any = object()
# RFC 1123 section 2.1 as Kubernetes applies it to node names: lower case, 253 characters at the most.
NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
# IFNAMSIZ of linux/if.h is 16 with the closing zero; dev_valid_name() refuses '/', ':' and white space.
_INTERFACE = re.compile(r"[^/:\s]{1,15}")
_PORTS, _HIGHEST_PORT = re.compile(r"([0-9]{1,5})-([0-9]{1,5})"), 65535


class Section:
    """A mapping of the user's input together with the path that leads to it."""

    def __init__(self, data: Any, path: str = "") -> None:
        # The usual types first: asking whether something is a Mapping takes ten times as long.
        if not isinstance(data, (dict, Mapping)):
            raise SpecError(path or "input", f"must be a mapping, not {_shown(data)}")
        self.data: Mapping[str, Any] = data
        self.path = path
        self._known: set[str] = set()

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        self._known.add(key)
        value = self.data.get(key)
        if value is None:
            if default is REQUIRED:
                raise SpecError(self.at(key), "is required")
            return default
        return value

    def text(self, key: str, default: Any = REQUIRED, choices: Optional[Sequence[str]] = None) -> str:
        value = self.get(key, default)
        if value is default and default is not REQUIRED:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, str):
            raise SpecError(self.at(key), f"must be a string, not {_shown(value)}")
        if choices is not None and value not in choices:
            raise SpecError(self.at(key), f"must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    def boolean(self, key: str, default: Any = REQUIRED) -> bool:
        value = self.get(key, default)
        if value is default and default is not REQUIRED:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, bool):
            raise SpecError(self.at(key), f"must be true or false, not {_shown(value)}")
        return value

    def integer(self, key: str, low: int, high: int, default: Any = REQUIRED) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise SpecError(self.at(key), f"must be a whole number, not {_shown(value)}")
        if value != default and not low <= value <= high:
            raise SpecError(self.at(key), f"must be {low} to {high}, not {value}")
        return int(value)

    def address(self, key: str, default: Any = REQUIRED) -> Address:
        value = self.get(key, default)
        return default if value is default else parse_address(value, self.at(key))

    def network(self, key: str, default: Any = REQUIRED) -> Network:
        value = self.get(key, default)
        return default if value is default else parse_network(value, self.at(key))

    def mac(self, key: str) -> str:
        value = self.text(key).lower()
        if not _MAC.fullmatch(value):
            raise SpecError(self.at(key), f"must be a MAC address like 02:00:5e:10:00:01, not {value!r}")
        return value

    def interface(self, key: str, default: Any = REQUIRED) -> str:
        value = self.text(key, default)
        if value != default and not _INTERFACE.fullmatch(value):
            raise SpecError(self.at(key), f"must be an interface name of 1 to 15 characters, not {value!r}")
        return value

    def ports(self, key: str, default: str) -> Tuple[int, int]:
        """The first and the last port of a range, "30000-32767"."""
        value = self.text(key, default)
        found = _PORTS.fullmatch(value)
        low, high = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= low <= high <= _HIGHEST_PORT:
            raise SpecError(self.at(key), f"must be a range of ports like 30000-32767, not {value!r}")
        return low, high

    def node_name(self, key: str) -> str:
        return parse_node_name(self.get(key), self.at(key))

    def section(self, key: str, default: Any = REQUIRED) -> Section:
        return Section(self.get(key, default), self.at(key))

    def sections(self, key: str, default: Any = REQUIRED) -> List[Section]:
        return [Section(value, path) for path, value in self.entries(key, default).items()]

    def entries(self, key: str, default: Any = REQUIRED) -> Dict[str, Any]:
        """What is in a list, by the paths that lead there."""
        path = self.at(key)
        return {f"{path}[{index}]": value for index, value in enumerate(self.list(key, default))}

    def list(self, key: str, default: Any = REQUIRED) -> List[Any]:
        value = self.get(key, default)
        if not isinstance(value, (list, tuple, Sequence)) or isinstance(value, str):
            raise SpecError(self.at(key), f"must be a list, not {_shown(value)}")
        return list(value)

    def finish(self) -> None:
        """Refuse keys that nobody asked for: a misspelt option must not be ignored."""
        unknown = sorted(str(key) for key in self.data if key not in self._known)
        if unknown:
            raise SpecError(self.at(unknown[0]), f"is unknown here; known are {', '.join(sorted(self._known))}")


def parse_address(value: Any, path: str) -> Address:
    if not isinstance(value, str):
        raise SpecError(path, f"must be an IP address, not {_shown(value)}")
    try:
        # An address with a zone, like fe80::1%eth0, is one of this host's alone.
        return ipaddress.ip_address(value.replace("%", " "))
    except ValueError:
        raise SpecError(path, f"must be an IP address, not {value!r}") from None


def parse_network(value: Any, path: str) -> Network:
    """A network in CIDR form without host bits."""
    if not isinstance(value, str) or "/" not in value:
        raise SpecError(path, f"must be a network like 10.244.0.0/16, not {_shown(value)}")
    try:
        interface = ipaddress.ip_interface(value.replace("%", " "))
    except ValueError:
        raise SpecError(path, f"must be a network like 10.244.0.0/16, not {value!r}") from None
    if interface.ip != interface.network.network_address:
        raise SpecError(path, f"{value} has host bits set; the network is {interface.network}")
    return interface.network


def parse_node_name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not NODE_NAME.fullmatch(value):
        raise SpecError(path, f"must be a lower-case RFC 1123 name (a-z, 0-9, '-', '.'), not {_shown(value)}")
    return value


def unique(values: Mapping[str, Any], what: str) -> None:
    """Refuse two paths with the same value; ``values`` maps path to value in the order of the input."""
    seen: Dict[Any, str] = {}
    for path, value in values.items():
        if value in seen:
            raise SpecError(path, f"{what} {value} is also that of {seen[value]}")
        seen[value] = path


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
