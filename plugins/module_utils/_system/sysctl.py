# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel parameters under /proc/sys."""

from __future__ import annotations

import errno
import fnmatch
import os
from typing import Iterable, Iterator, List, Optional, Sequence

from .._model.errors import ApplyError, PrerequisiteError, ReadError
from .._model.item import State, state_of
from .._model.kernel import AS_HOST, IPV6_FORWARDING, Sysctl, accept_ra, canonical_value, proc_path
from .._plan.operation import DELETE, Operation

# Families of keys that appear with a kernel module, for the message about a key that is not there.
_COMES_WITH = {
    "net.bridge.": "br_netfilter",
    "net.netfilter.nf_conntrack": "nf_conntrack",
    "net.ipv4.vs.": "ip_vs",
}
# Not a link to routers: the pseudo devices of /proc/sys/net/ipv6/conf, loopback, and what leads to pods, which must not
# be able to give the node routes.
_NO_LINK_TO_ROUTERS = ("all", "default", "lo", "flannel*", "fairlead*", "cni*", "kube-*", "veth*")


class SysctlAdapter:
    """Speaks for the given keys. A key that the kernel does not have is absent from its state."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(set(names))

    def read(self) -> State:
        found = ((name, read_value(name)) for name in self.names)
        return state_of(Sysctl(name, value) for name, value in found if value is not None)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            sysctl = operation.item
            assert isinstance(sysctl, Sysctl)
            # A key cannot be taken away: undoing the setting of one that came meanwhile leaves it.
            if operation.action != DELETE:
                _write(sysctl)
            yield operation


def read_value(name: str) -> Optional[str]:
    """The canonical value, None when this kernel has no such key. Raises ReadError for keys that cannot be read."""
    try:
        with open(proc_path(name), encoding="utf-8", errors="surrogateescape") as stream:
            return canonical_value(name, stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ReadError(f"sysctl {name}: {error.strerror}") from error


def devices_with_routers() -> List[str]:
    """Devices that take router advertisements now and would not any more once the node forwards IPv6 packets.

    Empty where it forwards them already: what a device does then was somebody's choice.
    """
    if read_value(IPV6_FORWARDING) != "0":
        return []
    devices = sorted(os.listdir("/proc/sys/net/ipv6/conf"))
    return [device for device in devices if _may_have_router(device) and read_value(accept_ra(device)) == AS_HOST]


def _may_have_router(device: str) -> bool:
    """What comes in by a port of a bridge is taken by the bridge, and the port itself sees no router."""
    excluded = any(fnmatch.fnmatchcase(device, pattern) for pattern in _NO_LINK_TO_ROUTERS)
    return not excluded and not os.path.exists(f"/sys/class/net/{device}/brport")


def require_writable(sysctl: Sysctl) -> None:
    """Refuse a change that a read-only /proc/sys would refuse, before anything is touched. Raises PrerequisiteError."""
    path = proc_path(sysctl.name)
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise PrerequisiteError(
            f"{sysctl}: {path} is {read_value(sysctl.name)!r} and read-only here; in a container set it on the "
            f"host, or start the container with a writable /proc/sys/net"
        )


def require_known(name: str) -> None:
    """Refuse a key that the running kernel does not have. Raises PrerequisiteError."""
    if not os.path.exists(proc_path(name)):
        module = next((module for start, module in _COMES_WITH.items() if name.startswith(start)), None)
        hint = f"it comes with kernel module {module}: add that to modules" if module else "check the spelling"
        if name.startswith("net.ipv6.") and not os.path.exists("/proc/sys/net/ipv6"):
            hint = "IPv6 is switched off: remove ipv6.disable=1 from the kernel's command line"
        raise PrerequisiteError(f"sysctl {name}: this kernel has no such parameter; {hint}")


def _write(sysctl: Sysctl) -> None:
    try:
        with open(proc_path(sysctl.name), "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(f"{sysctl.value}\n")
    except OSError as error:
        reason = "the kernel refuses this value" if error.errno == errno.EINVAL else str(error.strerror)
        raise ApplyError(sysctl, reason) from error
