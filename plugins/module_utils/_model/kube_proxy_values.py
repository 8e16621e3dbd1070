# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Values of kube-proxy's options, read as Ansible reads variables: "14" will do for a number, "yes" for true.

Each reader takes a value and the name of its variable, gives the canonical value, and raises SpecError with that name.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
from decimal import Decimal
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .errors import SpecError
from .parse import NODE_NAME, parse_address, parse_network

Reader = Callable[[Any, str], Any]

_TRUE = ("yes", "true", "on", "y", "t", "1", "1.0")
_FALSE = ("no", "false", "off", "n", "f", "0", "0.0")
# Units of Go's time.ParseDuration in nanoseconds.
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
_UNITS.update(m=60 * _UNITS["s"], h=3600 * _UNITS["s"])
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_GATE = re.compile(r"[A-Z][A-Za-z0-9]*")
_VMODULE = re.compile(r"[^=,\s]+")
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(-[0-9a-z.]+)?")
_INTERFACE = re.compile(r"[^/:\s]{1,15}")


@dataclasses.dataclass(frozen=True)
class Duration:
    """A span of time as Go writes it, such as 1h30m0s."""

    nanoseconds: int

    @property
    def seconds(self) -> int:
        return self.nanoseconds // 10**9

    def __str__(self) -> str:
        if self.nanoseconds == 0:
            return "0s"
        for unit in ("ns", "µs", "ms"):
            if self.nanoseconds < 1000 * _UNITS[unit]:
                return f"{_shortest(self.nanoseconds, _UNITS[unit])}{unit}"
        minutes, rest = divmod(self.nanoseconds, _UNITS["m"])
        hours, minutes = divmod(minutes, 60)
        seconds = f"{_shortest(rest, _UNITS['s'])}s"
        return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds


def _shortest(value: int, unit: int) -> str:
    text = f"{Decimal(value) / unit:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An address of this node and a TCP port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def meets(self, other: Endpoint) -> bool:
        """Whether both cannot be listened on at the same time."""
        one, two = ipaddress.ip_address(self.address), ipaddress.ip_address(other.address)
        return self.port == other.port and (one == two or one.is_unspecified or two.is_unspecified)


def read_duration(text: str) -> Optional[int]:
    """Nanoseconds, None for what Go's time.ParseDuration refuses, and for negative ones, which no option takes."""
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return int(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))


def duration(low: str, high: str, whole_seconds: bool = False) -> Reader:
    """Bounds are inclusive. ``whole_seconds``: fractions would be cut off by who uses the value."""
    lowest, highest = read_duration(low), read_duration(high)
    assert lowest is not None and highest is not None

    def read(value: Any, path: str) -> Duration:
        found = read_duration(value) if isinstance(value, str) else 0 if _is_number(value) and value == 0 else None
        if found is None:
            raise SpecError(path, f"must be a duration like 30s or 1h30m, not {_shown(value)}")
        if not lowest <= found <= highest:
            raise SpecError(path, f"must be {low} to {high}, not {value}")
        if whole_seconds and found % _UNITS["s"]:
            raise SpecError(path, f"must be whole seconds, not {value}")
        return Duration(found)

    return read


def integer(low: int, high: int) -> Reader:
    def read(value: Any, path: str) -> int:
        number = value if _is_number(value) else _converted(int, value)
        if number is None or number != number or number in (math.inf, -math.inf) or int(number) != number:
            raise SpecError(path, f"must be a whole number, not {_shown(value)}")
        if not low <= number <= high:
            raise SpecError(path, f"must be {low} to {high}, not {value}")
        return int(number)

    return read


def number(low: float, high: float) -> Reader:
    """A number that may have a fraction."""

    def read(value: Any, path: str) -> float:
        found = value if _is_number(value) else _converted(float, value)
        if found is None or found != found:
            raise SpecError(path, f"must be a number, not {_shown(value)}")
        if not low <= found <= high:
            raise SpecError(path, f"must be {low:g} to {high:g}, not {value}")
        return int(found) if int(found) == found else float(found)

    return read


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _converted(kind: Callable[[str], Any], value: Any) -> Any:
    try:
        return kind(value) if isinstance(value, str) else None
    except ValueError:
        return None


def boolean(value: Any, path: str) -> bool:
    text = str(value).lower()
    if isinstance(value, (bool, int, float, str)) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    raise SpecError(path, f"must be true or false, not {_shown(value)}")


def choice(*choices: str) -> Reader:
    def read(value: Any, path: str) -> str:
        if value not in choices:
            raise SpecError(path, f"must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


def optional(reader: Reader) -> Reader:
    """Empty text stands for "not given"."""
    return lambda value, path: "" if value == "" else reader(value, path)


def node_name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not NODE_NAME.fullmatch(value):
        raise SpecError(path, f"must be the name of a Node (a-z, 0-9, '-', '.'), not {_shown(value)}")
    return value


def interface(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
        raise SpecError(path, f"must be an interface name of 1 to 15 characters, not {_shown(value)}")
    return value


def address(value: Any, path: str) -> str:
    return str(parse_address(value, path))


def endpoint(value: Any, path: str) -> Endpoint:
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})", value) if isinstance(value, str) else None
    if found is None:
        raise SpecError(path, f"must be an address and a port like 0.0.0.0:10256, not {_shown(value)}")
    host, port = parse_address(found[1] or found[2], path), int(found[3])
    if (host.version == 6) != bool(found[1]):
        raise SpecError(path, f"must have brackets around an IPv6 address and around no other, not {value!r}")
    if not 1 <= port <= 65535:
        raise SpecError(path, f"must have a port of 1 to 65535, not {port}")
    return Endpoint(str(host), port)


def networks(*words: str) -> Reader:
    """Networks in CIDR form, each once; or one of ``words`` alone."""

    def read(value: Any, path: str) -> Tuple[str, ...]:
        entries = _listed(value, path)
        if len(entries) == 1 and entries[0] in words:
            return (str(entries[0]),)
        found = [str(parse_network(entry, f"{path}[{index}]")) for index, entry in enumerate(entries)]
        for index, entry in enumerate(found):
            if entry in found[:index]:
                raise SpecError(f"{path}[{index}]", f"{entry} is there twice")
        return tuple(found)

    return read


def network(family: int) -> Reader:
    """One network of an IP version."""

    def read(value: Any, path: str) -> str:
        found = parse_network(value, path)
        if found.version != family:
            raise SpecError(path, f"must be an IPv{family} network, not {found}")
        return str(found)

    return read


def _listed(value: Any, path: str) -> Sequence[Any]:
    """Ansible takes a string for a list of its parts."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value else []
    if not isinstance(value, Sequence):
        raise SpecError(path, f"must be a list, not {_shown(value)}")
    return value


def gates(value: Any, path: str) -> Dict[str, bool]:
    found: Dict[str, bool] = {}
    for name, switch in _mapping(value, path).items():
        if not isinstance(name, str) or not _GATE.fullmatch(name):
            raise SpecError(path, f"must hold names of feature gates like KubeProxyIPVS, not {name!r}")
        found[name] = boolean(switch, f"{path}.{name}")
    return dict(sorted(found.items()))


def vmodule(value: Any, path: str) -> List[Tuple[str, int]]:
    found = []
    for name, level in _mapping(value, path).items():
        if not isinstance(name, str) or not _VMODULE.fullmatch(name):
            raise SpecError(path, f"must hold patterns of file names without '=' and ',', not {name!r}")
        found.append((name, int(integer(0, 10)(level, f"{path}.{name}"))))
    return sorted(found)


def _mapping(value: Any, path: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(path, f"must be a mapping, not {_shown(value)}")
    return value


def version(value: Any, path: str) -> str:
    """A release of Kubernetes, such as 1.36.3."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise SpecError(path, f"must be a release of Kubernetes like 1.36.3, not {_shown(value)}")
    return value


def minor_version(text: str) -> Tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def minor(value: Any, path: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", value):
        raise SpecError(path, f"must be a minor release in quotes like '1.35', not {_shown(value)}")
    return value


def file_path(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or "\n" in value:
        raise SpecError(path, f"must be an absolute path, not {_shown(value)}")
    return value


def api_server(value: Any, path: str) -> str:
    found = re.fullmatch(r"https://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?/?", str(value))
    if not isinstance(value, str) or found is None or not 1 <= int(found[2] or 443) <= 65535:
        raise SpecError(path, f"must be a URL like https://192.0.2.10:6443, not {_shown(value)}")
    if found[1].startswith("["):
        parse_address(found[1][1:-1], path)
    return value.rstrip("/")


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
