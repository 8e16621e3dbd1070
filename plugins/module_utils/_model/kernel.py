# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules and sysctls as declared state."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar, Dict, Hashable, List, Tuple

from .errors import SpecError
from .item import BaseItem
from .parse import Section, unique

_MODULE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,54}")
_SYSCTL_NAME = re.compile(r"[a-zA-Z0-9_@-]+([./][a-zA-Z0-9_@-]+)+")
# Writing these sets other keys of the same family back (Linux, ip-sysctl.rst), so they go first.
IPV6_FORWARDING = "net.ipv6.conf.all.forwarding"
_RESETTING = ("net.ipv4.ip_forward", IPV6_FORWARDING)
# Linux, ip-sysctl.rst, accept_ra: 0 never, 1 unless the device forwards, 2 always.
AS_HOST, ALWAYS = "1", "2"
_ACCEPT_RA = re.compile(r"net\.ipv6\.conf\.[^.]+\.accept_ra")
# The kernel gives these back as merged, sorted ranges.
_RANGE_LISTS = ("net.ipv4.ip_local_reserved_ports",)


@dataclasses.dataclass(frozen=True)
class KernelModule(BaseItem):
    """A module that is loaded, or whose function is built into the kernel."""

    kind: ClassVar[str] = "kernel_module"
    name: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"kernel module {self.name}"


@dataclasses.dataclass(frozen=True)
class Sysctl(BaseItem):
    """A kernel parameter by its name with dots and its value in canonical form (``canonical_value``)."""

    kind: ClassVar[str] = "sysctl"
    name: str
    value: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.name,)

    def __str__(self) -> str:
        return f"sysctl {self.name} = {self.value}"


@dataclasses.dataclass(frozen=True)
class KernelSettings:
    """What the node's kernel shall offer now and after each boot.

    ``optional`` are sysctls that count only where the kernel (or the container) has them.
    """

    modules: Tuple[str, ...]
    sysctls: Dict[str, str]
    optional: Dict[str, str]
    modules_file: str
    sysctl_file: str
    found_file: str


def parse_kernel_settings(document: Any) -> KernelSettings:
    """Shape: ``{modules?: [NAME], sysctls?: {KEY: VALUE}, optional_sysctls?: {KEY: VALUE}, modules_file, sysctl_file,
    found_file}``. Raises SpecError naming the entry."""
    section = Section(document)
    settings = KernelSettings(
        modules=tuple(_modules(section)),
        sysctls=_sysctls(section.section("sysctls", {})),
        optional=_sysctls(section.section("optional_sysctls", {})),
        modules_file=section.text("modules_file"),
        sysctl_file=section.text("sysctl_file"),
        found_file=section.text("found_file"),
    )
    section.finish()
    for name in settings.optional:
        if name in settings.sysctls:
            raise SpecError(f"optional_sysctls.{name}", "is also in sysctls")
    return settings


def _modules(section: Section) -> List[str]:
    names = section.list("modules", [])
    for index, name in enumerate(names):
        if not isinstance(name, str) or not _MODULE_NAME.fullmatch(name):
            raise SpecError(section.at(f"modules[{index}]"), f"must be the name of a kernel module, not {name!r}")
    # The kernel takes '-' and '_' in module names for the same and shows '_'.
    names = [name.replace("-", "_") for name in names]
    unique({section.at(f"modules[{index}]"): name for index, name in enumerate(names)}, "module")
    return names


def _sysctls(section: Section) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for key, value in section.data.items():
        path = section.at(str(key))
        if not isinstance(key, str) or not _SYSCTL_NAME.fullmatch(key):
            raise SpecError(path, "must be the name of a sysctl like net.ipv4.ip_forward")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise SpecError(path, f"must be a string or a whole number, not {value!r} ({type(value).__name__})")
        name = canonical_name(key)
        if name in found:
            raise SpecError(path, f"is given twice, as {name} in another spelling")
        found[name] = canonical_value(name, str(value))
        if not found[name]:
            raise SpecError(path, "must not be empty")
    return dict(sorted(found.items(), key=lambda entry: writing_order(entry[0])))


def writing_order(name: str) -> Tuple[bool, str]:
    """A sort key: parameters that reset others first, then by name."""
    return (name not in _RESETTING, name)


def accept_ra(device: str) -> str:
    """The parameter that says whether a device takes router advertisements."""
    return f"net.ipv6.conf.{device.replace('.', '/')}.accept_ra"


def is_accept_ra(name: str) -> bool:
    return _ACCEPT_RA.fullmatch(name) is not None


def canonical_name(name: str) -> str:
    """Dots between the parts. As in sysctl.d(5), a name whose first separator is a slash has dots inside its parts
    (``net/ipv4/conf/flannel.1/rp_filter``); such dots become slashes, as in ``net.ipv4.conf.flannel/1.rp_filter``."""
    first = re.search(r"[./]", name)
    if first is not None and first.group() == "/":
        return name.translate(str.maketrans("./", "/."))
    return name


def proc_path(name: str, root: str = "/proc/sys") -> str:
    """The file of a parameter given by its canonical name."""
    return f"{root}/{name.translate(str.maketrans('./', '/.'))}"


def canonical_value(name: str, text: str) -> str:
    """One space between the fields; lists of port ranges sorted and merged, as the kernel shows them."""
    value = " ".join(text.split())
    if name in _RANGE_LISTS and re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", value):
        return _merged_ranges(value)
    return value


def _merged_ranges(value: str) -> str:
    merged: List[List[int]] = []
    for low, high in sorted(_range(part) for part in value.split(",")):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in merged)


def _range(part: str) -> Tuple[int, int]:
    low, _dash, high = part.partition("-")
    return int(low), int(high or low)
