# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules of the running kernel: whether their function is there, whether they could be loaded, loading them."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import re
from typing import FrozenSet, Iterable, Iterator, List, Optional, Sequence

from .._model.errors import ApplyError, PrerequisiteError
from .._model.ipvs import SCHEDULERS
from .._model.item import State, state_of
from .._model.kernel import KernelModule
from .._plan.operation import ADD, Operation
from .runner import Runner


@dataclasses.dataclass(frozen=True)
class Known:
    """How to tell that a module's function is there although no module is loaded: a file that only it provides, and
    its switch in the kernel's configuration. ``purpose`` completes the sentence "it is needed for ..."."""

    purpose: str
    option: str
    evidence: Optional[str] = None


KNOWN = {
    "bridge": Known("the bridge that pods of one node share", "BRIDGE"),
    "br_netfilter": Known(
        "packet filter rules (services, policies) on traffic between pods of one node",
        "BRIDGE_NETFILTER",
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
    ),
    "veth": Known("connecting pods to the node", "VETH"),
    "vxlan": Known("the overlay between nodes", "VXLAN"),
    "ipip": Known("the overlay between nodes with backend ipip", "NET_IPIP"),
    "dummy": Known("the device kube-ipvs0 that holds service addresses", "DUMMY"),
    "ip_set": Known("sets of addresses in service rules", "IP_SET"),
    "ip_tables": Known("iptables rules", "IP_NF_IPTABLES", "/proc/net/ip_tables_names"),
    "ip6_tables": Known("ip6tables rules", "IP6_NF_IPTABLES", "/proc/net/ip6_tables_names"),
    "ip_vs": Known("virtual servers of services", "IP_VS", "/proc/net/ip_vs"),
    **{f"ip_vs_{name}": Known(f"scheduler {name} of services", f"IP_VS_{name.upper()}") for name in SCHEDULERS},
    "ip_vs_pe_sip": Known("telling clients of services apart by SIP's Call-ID", "IP_VS_PE_SIP"),
    "ip_vs_rr": Known("the round robin scheduler of services", "IP_VS_RR"),
    "ip_vs_wrr": Known("the weighted round robin scheduler of services", "IP_VS_WRR"),
    "ip_vs_sh": Known("the source hash scheduler of services", "IP_VS_SH"),
    "ip_vs_lc": Known("the least connection scheduler of services", "IP_VS_LC"),
    "nf_conntrack": Known(
        "connection tracking, which NAT rests on", "NF_CONNTRACK", "/proc/sys/net/netfilter/nf_conntrack_max"
    ),
    "nf_nat": Known("masquerading and service addresses", "NF_NAT"),
    "nf_tables": Known("nftables rules", "NF_TABLES"),
    "overlay": Known("the file systems of containers", "OVERLAY_FS"),
    "wireguard": Known("the encrypted overlay between nodes", "WIREGUARD"),
}


class ModuleAdapter:
    """Speaks for the given modules. It never unloads: others may use by now what we loaded, and it does no harm."""

    def __init__(self, names: Iterable[str], runner: Runner) -> None:
        self.names = list(names)
        self.runner = runner

    def read(self) -> State:
        return state_of(KernelModule(name) for name in self.names if is_there(name))

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            module = operation.item
            assert isinstance(module, KernelModule)
            if operation.action == ADD:
                self._load(module)
            yield operation

    def _load(self, module: KernelModule) -> None:
        status, _output, error = self.runner(["modprobe", module.name])
        if status == 127:
            raise PrerequisiteError(f"{module}: command modprobe is missing; install package kmod")
        if status != 0:
            raise ApplyError(module, error.strip() or f"modprobe ended with status {status}")


def require_loadable(names: Iterable[str]) -> None:
    """Refuse modules that are neither there nor on disk for the running kernel. Raises PrerequisiteError."""
    missing = [name for name in names if not is_there(name) and not _on_disk(name)]
    if missing:
        known = KNOWN.get(missing[0])
        purpose = f", which is needed for {known.purpose}," if known else ""
        raise PrerequisiteError(
            f"kernel module {missing[0]}{purpose} is not in the running kernel {os.uname().release} and there is no "
            f"file for it under {_directory()}: reboot if the kernel was updated, install the package with the "
            f"kernel's modules, or, in a container, load it on the host"
        )


def is_there(name: str) -> bool:
    """Whether a module is loaded, built in, or its function is seen otherwise (containers have no /lib/modules)."""
    if os.path.isdir(f"/sys/module/{name}") or name in _listed("modules.builtin"):
        return True
    known = KNOWN.get(name)
    if known is None:
        return False
    if known.evidence is not None and os.path.exists(known.evidence):
        return True
    return known.option in _built_in_options()


def _on_disk(name: str) -> bool:
    return name in _listed("modules.dep")


def _directory() -> str:
    return f"/lib/modules/{os.uname().release}"


def _listed(index: str) -> FrozenSet[str]:
    """Names of the modules in one of depmod's index files; their lines start with a path to NAME.ko[.gz|.xz|.zst]."""
    try:
        with open(os.path.join(_directory(), index), encoding="utf-8") as stream:
            files = [re.match(r"(?:[^:\s]*/)?([^/:\s]+)\.ko", line) for line in stream]
    except OSError:
        return frozenset()
    return frozenset(found.group(1).replace("-", "_") for found in files if found)


@functools.lru_cache(maxsize=1)
def _built_in_options() -> FrozenSet[str]:
    """Switches that the running kernel was built with as ``=y``, from the kernel itself or from /boot."""
    for line_source in (_proc_config, _boot_config):
        lines = line_source()
        if lines:
            return frozenset(line[len("CONFIG_") : -2] for line in lines if line.endswith("=y"))
    return frozenset()


def _proc_config() -> List[str]:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _boot_config() -> List[str]:
    try:
        with open(f"/boot/config-{os.uname().release}", encoding="utf-8") as stream:
            return stream.read().splitlines()
    except OSError:
        return []
