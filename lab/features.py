# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Which kernel features a kind of node has: probed, never assumed."""

from __future__ import annotations

import gzip
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError, need, run

KINDS = ("container", "uml")

#: Feature to the kernel configuration symbols it takes; all of a group's alternatives separated by |.
SYMBOLS = {
    "bridge": ("BRIDGE",),
    "dummy": ("DUMMY",),
    "ip_vs": ("IP_VS", "IP_VS_RR", "NETFILTER_XT_MATCH_IPVS"),
    "ipip": ("NET_IPIP",),
    "ipset": ("IP_SET", "IP_SET_HASH_IPPORT"),
    "ipv6": ("IPV6",),
    "ipvlan": ("IPVLAN",),
    "macvlan": ("MACVLAN",),
    "netem": ("NET_SCH_NETEM",),
    "netfilter_nat": ("NF_NAT", "IP_NF_NAT|NFT_NAT"),
    "nftables": ("NF_TABLES", "NF_TABLES_INET", "NFT_NAT"),
    "veth": ("VETH",),
    "vlan": ("VLAN_8021Q",),
    "vxlan": ("VXLAN",),
    "wireguard": ("WIREGUARD",),
}
_LINKS = {
    "bridge": "type bridge",
    "dummy": "type dummy",
    "ipip": "type ipip local 192.0.2.1 remote 192.0.2.2",
    "ipvlan": "link probe-veth type ipvlan",
    "macvlan": "link probe-veth type macvlan",
    "veth": "type veth",
    "vlan": "link probe-veth type vlan id 5",
    "vxlan": "type vxlan id 5 dstport 8472 local 192.0.2.1",
    "wireguard": "type wireguard",
}
_NAT_CHAIN = "{ type nat hook postrouting priority 100; }"
#: Feature to the tool it is tried with (empty: none needed) and what is tried; the first tool installed counts.
_TRIALS = {
    "ip_vs": (("", "modprobe -q ip_vs; modprobe -q ip_vs_rr; modprobe -q xt_ipvs; [ -e /proc/net/ip_vs ]"),),
    "ipset": (("ipset", "modprobe -q ip_set_hash_ipport; ipset create t hash:ip,port"),),
    "ipv6": (("", "[ -e /proc/sys/net/ipv6/conf/all/forwarding ]"),),
    "netem": (("tc", "ip link add probe-veth type veth && tc qdisc add dev probe-veth root netem delay 1ms"),),
    "netfilter_nat": (
        ("nft", f"nft 'add table ip t; add chain ip t c {_NAT_CHAIN}'"),
        ("iptables", "iptables -t nat -S"),
    ),
    "nftables": (("nft", f"nft 'add table inet t; add chain inet t c {_NAT_CHAIN}'"),),
}


def choose(wanted: Iterable[str], forced: str | None) -> str:
    """The cheapest kind of node with all wanted features, or the forced one if it has them."""
    names = sorted(set(wanted))
    unknown = [name for name in names if name not in SYMBOLS]
    if unknown:
        raise LabError(f"lab_features: unknown {', '.join(unknown)}; known are {', '.join(SYMBOLS)}")
    lacks = {}
    for kind in [forced] if forced else KINDS:
        try:
            lacks[kind] = missing(kind, names)
        except LabError as error:
            lacks[kind] = [str(error)]
        if not lacks[kind]:
            return kind
    reasons = "; ".join(f"{kind}: {', '.join(reason)}" for kind, reason in lacks.items())
    raise LabError(f"no kind of node has what lab_features asks for. Missing in {reasons}")


def missing(kind: str, names: Iterable[str]) -> list[str]:
    """Those of the named features that a kind of node lacks on this host."""
    if kind == "uml":
        need("linux.uml")
        config = run(["linux.uml", "--showconfig"])
        return [name for name in names if not configured(name, config)]
    need("systemd-nspawn", "unshare", "ip")
    return [name for name in names if not _host_has(name)]


def configured(feature: str, config: str) -> bool:
    """Whether a kernel configuration (the text of a .config file) has a feature built in or as module."""
    on = {line.partition("=")[0] for line in config.splitlines() if line.endswith(("=y", "=m"))}
    return all(any(f"CONFIG_{symbol}" in on for symbol in group.split("|")) for group in SYMBOLS[feature])


def _host_has(feature: str) -> bool:
    """Try it in a scratch network namespace; where no tool is there to try with, read the configuration."""
    if feature in _LINKS:
        return _in_scratch(f"ip link add probe-veth type veth; ip link add probe {_LINKS[feature]}")
    for tool, trial in _TRIALS[feature]:
        if not tool or shutil.which(tool):
            return _in_scratch(trial)
    return configured(feature, _host_config())


def _in_scratch(script: str) -> bool:
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def _host_config() -> str:
    packed, plain = Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")
    if packed.exists():
        return gzip.decompress(packed.read_bytes()).decode()
    return plain.read_text() if plain.exists() else ""
