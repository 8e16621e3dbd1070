# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The packet filters of a node as tests see them from outside: what module masquerade wants in each, and what is in."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kernel.namespaces import Namespace

MULTI = {"iptables-nft": "xtables-nft-multi", "iptables-legacy": "xtables-legacy-multi"}
FILTERS = ("nftables", *MULTI)
OUR_CHAINS = re.compile(r"FAIRLEAD-(POSTRTG|FWD)( |$)")
NFT_POSTROUTING = """
type nat hook postrouting priority srcnat; policy accept;
meta mark & 0x4000 == 0x4000 return comment "fairlead masquerade"
FAMILY saddr SUBNET FAMILY daddr NETWORK return comment "fairlead masquerade"
FAMILY saddr NETWORK FAMILY daddr SUBNET return comment "fairlead masquerade"
FAMILY saddr != NETWORK FAMILY daddr SUBNET return comment "fairlead masquerade"
FAMILY saddr NETWORK FAMILY daddr != MULTICAST masquerade fully-random comment "fairlead masquerade"
FAMILY saddr != NETWORK FAMILY daddr NETWORK masquerade fully-random comment "fairlead masquerade"
"""
NFT_FORWARD = """
type filter hook forward priority filter; policy accept;
FAMILY saddr NETWORK accept comment "fairlead forward"
FAMILY daddr NETWORK accept comment "fairlead forward"
"""
IPTABLES_NAT = """
:FAIRLEAD-POSTRTG -
-A POSTROUTING -m comment --comment "fairlead masquerade" -j FAIRLEAD-POSTRTG
-A FAIRLEAD-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "fairlead masquerade" -j RETURN
-A FAIRLEAD-POSTRTG -s SUBNET -d NETWORK -m comment --comment "fairlead masquerade" -j RETURN
-A FAIRLEAD-POSTRTG -s NETWORK -d SUBNET -m comment --comment "fairlead masquerade" -j RETURN
-A FAIRLEAD-POSTRTG ! -s NETWORK -d SUBNET -m comment --comment "fairlead masquerade" -j RETURN
-A FAIRLEAD-POSTRTG -s NETWORK ! -d MULTICAST -m comment --comment "fairlead masquerade" -j MASQUERADE --random-fully
-A FAIRLEAD-POSTRTG ! -s NETWORK -d NETWORK -m comment --comment "fairlead masquerade" -j MASQUERADE --random-fully
"""
IPTABLES_FILTER = """
:FAIRLEAD-FWD -
-A FORWARD -m comment --comment "fairlead forward" -j FAIRLEAD-FWD
-A FAIRLEAD-FWD -s NETWORK -m comment --comment "fairlead forward" -j ACCEPT
-A FAIRLEAD-FWD -d NETWORK -m comment --comment "fairlead forward" -j ACCEPT
"""


@dataclasses.dataclass(frozen=True)
class Half:
    """An IP version: how nftables calls it, and its networks in these tests."""

    family: str
    suffix: str
    network: str
    subnet: str
    multicast: str

    @property
    def args(self) -> dict[str, Any]:
        return {f"network{self.suffix}": self.network, f"subnet{self.suffix}": self.subnet}

    def command(self, kind: str) -> str:
        """``kind`` of iptables as it is started."""
        return kind.replace("iptables", f"{self.family}tables")

    def lines(self, template: str) -> list[str]:
        words = {name.upper(): getattr(self, name) for name in ("family", "network", "subnet", "multicast")}
        text = re.sub("|".join(words), lambda found: words[found[0]], template)
        return [line for line in text.splitlines() if line]


V4 = Half("ip", "", "10.244.0.0/16", "10.244.1.0/24", "224.0.0.0/4")
V6 = Half("ip6", "6", "fd00:10:244::/48", "fd00:10:244:1::/64", "ff00::/8")
HALVES = (V4, V6)


class Filter:
    """A packet filter as a test wants it used: ``args`` for the module, and what is in it, by its own commands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.args = self.args_for(V4)

    def args_for(self, *halves: Half) -> dict[str, Any]:
        args: dict[str, Any] = {"backend": self.name.split("-")[0]}
        for half in halves:
            args.update(half.args)
        return args

    def ours(self, node: Namespace, half: Half = V4) -> list[str]:
        if self.name == "nftables":
            lines = table_lines(node, half.family, "fairlead")
            return [line for line in lines if line != "}" and not line.endswith(" {")]
        return [line for line in saved(node, half.command(self.name)) if OUR_CHAINS.search(line)]

    def expected(self, half: Half, masquerade: bool = True, forward: bool = True) -> list[str]:
        nft = self.name == "nftables"
        nat, filtering = (NFT_POSTROUTING, NFT_FORWARD) if nft else (IPTABLES_NAT, IPTABLES_FILTER)
        return half.lines((nat if masquerade else "") + (filtering if forward else ""))

    def holds(self, node: Namespace, half: Half = V4, **chains: bool) -> bool:
        """All lines and none else; chains come in any order, rules of one chain in theirs."""
        return sorted_by_chain(self.ours(node, half)) == sorted_by_chain(self.expected(half, **chains))

    def holds_just(self, node: Namespace, halves: Sequence[Half]) -> bool:
        """All of the halves and nothing of the others."""
        return all(self.holds(node, half) if half in halves else not self.ours(node, half) for half in HALVES)


def sorted_by_chain(lines: list[str]) -> list[str]:
    """Stable: rules keep their order where two lines speak of the same chain."""
    return sorted(lines, key=lambda line: "fairlead forward" in line or "FWD" in line or "hook forward" in line)


def table_lines(node: Namespace, family: str, table: str) -> list[str]:
    done = node.run(f"nft list table {family} {table}", check=False)
    text = re.sub(r"0x0+(?=[1-9a-f])", "0x", done.stdout)
    return [line.strip() for line in text.splitlines() if line.strip()]


def saved(node: Namespace, command: str) -> list[str]:
    """Lines of iptables-save without counters and remarks: declared chains before their rules."""
    text = re.sub(r" \[\d+:\d+\]", "", node.out(f"{command}-save"))
    return [line for line in text.splitlines() if not line.startswith("#")]


def everything(node: Namespace) -> list[str]:
    """All rules of all filters, ours and others'."""
    nft = re.sub(r"counter packets \d+ bytes \d+", "", node.out("nft list ruleset"))
    of_iptables = [line for half in HALVES for kind in MULTI for line in saved(node, half.command(kind))]
    return [*nft.splitlines(), *of_iptables]


def arranged(node: Namespace) -> list[str]:
    """The same without the order of chains in a table, which nobody but the one who lists them sees."""
    nft = node.out("nft list ruleset")
    chains = re.findall(r"^table .*|^\t(?:chain|set|map) (?:.*\n)*?\t}|^\t.*", nft, re.MULTILINE)
    blocks: list[list[str]] = []
    for chain in chains:
        if chain.startswith("table "):
            blocks.append([])
        blocks[-1].append(chain)
    of_iptables = [sorted(saved(node, half.command(kind)), key=_chain) for half in HALVES for kind in MULTI]
    return [line for block in blocks for line in [block[0], *sorted(block[1:])]] + sum(of_iptables, [])


def _chain(line: str) -> str:
    """What an iptables-save line is about; the order of lines about the same thing stays."""
    return line.split()[1] if line.startswith("-A ") else ""


def places(node: Namespace, half: Half) -> list[str]:
    """The filters in which there is anything of ours."""
    return [name for name in FILTERS if Filter(name).ours(node, half)]


def stub(directory: Path, name: str, script: str) -> None:
    """A command that comes before the real one; ``directory`` is the first in PATH."""
    path = directory / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make_default(directory: Path, kind: str, halves: Sequence[Half] = HALVES) -> None:
    """Make commands iptables and ip6tables the given kind; ``directory`` is the first in PATH."""
    directory.mkdir(exist_ok=True)
    for half in halves:
        for suffix in ("", "-save", "-restore"):
            link = directory / f"{half.command('iptables')}{suffix}"
            link.unlink(missing_ok=True)
            link.symlink_to(str(shutil.which(MULTI[kind])))


def lacking(node: Namespace, name: str) -> str:
    """Why this filter cannot be used here, "" when it can; ``node`` is to be thrown away."""
    if name not in MULTI:
        chain = "PROBE PROBE { type nat hook postrouting priority 100; }"
        made = [
            node.run(["nft", f"add table {h.family} PROBE; add chain {h.family} {chain}"], check=False) for h in HALVES
        ]
        return "the kernel has no NAT of nftables" if any(done.returncode for done in made) else ""
    if shutil.which(MULTI[name]) is None:
        return f"{name} is not installed"
    for half in HALVES:
        if node.run(f"{half.command(name)} -t nat -N PROBE", check=False).returncode:
            return f"the kernel has no {half.command(name)}"
    return ""
