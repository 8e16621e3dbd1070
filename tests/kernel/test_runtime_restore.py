# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What modules applied in one namespace comes back in an empty one, as on a node that boots."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._system.runtime_tree import unpack
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces

FORWARD = "/proc/sys/net/ipv4/ip_forward"
NODE = {"name": "cp1", "address": "192.0.2.11", "subnet": "10.244.1.0/24", "mac": "02:00:5e:00:00:01"}
PEERS = [
    {"name": "cp2", "address": "192.0.2.12", "subnet": "10.244.2.0/24", "mac": "02:00:5e:00:00:02"},
    {"name": "cp3", "address": "192.0.2.13", "subnet": "10.244.3.0/24", "mac": "02:00:5e:00:00:03"},
]


class Node:
    """A node before and after it boots: what is saved and the runtime stay, the kernel's network state does not."""

    def __init__(self, netns: Namespaces, installed: Path, directory: Path) -> None:
        self.netns = netns
        self.installed = installed
        self.directory = directory
        self.saved = directory
        self.now = self.booted(address=True)

    def booted(self, address: bool) -> Namespace:
        made, outside = self.netns("node"), self.netns("lan")
        self.netns.link(made, "eth0", outside, "eth0")
        made.run(["sh", "-c", f"echo 0 > {FORWARD}"])
        if address:
            self.give_address(made)
        self.now = made
        return made

    def give_address(self, namespace: Namespace) -> None:
        namespace.run(f"ip address add {NODE['address']}/24 dev eth0")

    def command(self, *arguments: str) -> list[str]:
        setting = f"FAIRLEAD_STATE_DIR={self.saved}"
        return ["env", setting, sys.executable, "-I", str(self.installed / "bin" / "fairlead"), *arguments]

    def fairlead(self, *arguments: str) -> tuple[int, str]:
        done = self.now.run(self.command(*arguments), check=False)
        return done.returncode, done.stdout + done.stderr

    def datapath(self) -> dict[str, Any]:
        """What `ip`, `bridge` and the packet filter show, without what differs from one device to the next."""
        device = self.now.json("ip -j -d link show flannel.1")[0]
        kept = ("ifname", "mtu", "address", "operstate")
        vxlan = {key: device["linkinfo"]["info_data"][key] for key in ("id", "local", "port", "learning")}
        return {
            "device": {**{key: device[key] for key in kept}, **vxlan},
            "routes": sorted(line.partition(" nhid")[0] for line in self.lines("ip route show dev flannel.1")),
            "neighbors": self.lines("ip neighbor show dev flannel.1"),
            "entries": self.lines("bridge fdb show dev flannel.1"),
            "rules": self.lines("nft --stateless list ruleset") + self.lines("iptables-save"),
            "forward": self.now.out(["cat", FORWARD]),
        }

    def lines(self, command: str) -> list[str]:
        lines = self.now.run(command, check=False).stdout.splitlines()
        return sorted(line for line in lines if line and not line.startswith("#"))


@pytest.fixture
def node(netns: Namespaces, tmp_path: Path, root_dir: Path, run_module: RunModule, state_dir: Path) -> Node:
    """A node with sysctls, overlay and rules applied by the modules."""
    tree = build(root_dir)
    (tmp_path / "tree.tar.gz").write_bytes(tree.archive())
    unpack(str(tmp_path / "tree.tar.gz"), str(tmp_path / tree.version))
    node = Node(netns, tmp_path / tree.version, tmp_path)
    node.saved = state_dir / node.now.name
    paths = {name: str(tmp_path / name) for name in ("modules_file", "sysctl_file", "found_file")}
    subnet_env = {"path": str(tmp_path / "subnet.env"), "ipmasq": True}
    run_module("kernel_settings", {**paths, "sysctls": {"net.ipv4.ip_forward": 1}}, netns=node.now)
    run_module("overlay_network", {"node": NODE, "peers": PEERS, "subnet_env": subnet_env}, netns=node.now)
    run_module("masquerade", {"network": "10.244.0.0/16", "subnet": NODE["subnet"]}, netns=node.now)
    return node


def test_restore_brings_everything_back(node: Node, tmp_path: Path) -> None:
    before = node.datapath()
    assert len(before["routes"]) == len(before["neighbors"]) == len(PEERS)
    assert before["forward"] == "1\n"
    assert before["rules"]
    subnet_env = (tmp_path / "subnet.env").read_text()
    (tmp_path / "subnet.env").unlink()
    node.booted(address=True)
    status, output = node.fairlead("restore")
    assert status == 0, output
    assert node.datapath() == before
    assert (tmp_path / "subnet.env").read_text() == subnet_env
    assert node.fairlead("verify") == (0, "no drift: kernel_settings, overlay_network, masquerade\n")


def test_verify_names_what_drifted_and_restore_repairs_it(node: Node) -> None:
    before = node.datapath()
    node.now.run("ip route delete 10.244.2.0/24")
    node.now.run("bridge fdb delete 02:00:5e:00:00:03 dev flannel.1")
    status, output = node.fairlead("verify")
    assert status == 1
    assert "10.244.2.0/24" in output
    assert "02:00:5e:00:00:03" in output
    assert node.datapath() != before
    assert node.fairlead("restore")[0] == 0
    assert node.datapath() == before
    assert node.fairlead("verify")[0] == 0


def test_restore_waits_for_the_address_of_the_node(node: Node) -> None:
    before = node.datapath()
    booted = node.booted(address=False)
    process = booted.start(node.command("restore", "--wait", "300"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        waiting = next(line for line in process.stdout if "waiting" in line)
        assert f"node.address: {NODE['address']} is on no interface" in waiting
        node.give_address(booted)
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        process.communicate()
    assert node.datapath() == before


def test_restore_without_the_address_does_what_it_can_and_fails(node: Node) -> None:
    rules = node.datapath()["rules"]
    booted = node.booted(address=False)
    started = time.monotonic()
    node.fairlead("status")
    quick = time.monotonic() - started
    status, output = node.fairlead("restore", "--wait", "0.5")
    # It waits half a minute unless told otherwise.
    assert time.monotonic() - started - quick < 20 + 10 * quick
    assert status == 1
    assert "failed: overlay_network" in output
    assert booted.run("ip link show flannel.1", check=False).returncode != 0
    assert node.lines("nft --stateless list ruleset") + node.lines("iptables-save") == rules
    assert booted.out(["cat", FORWARD]) == "1\n"


def test_status_counts_the_differences(node: Node) -> None:
    node.now.run("ip link delete flannel.1")
    status, output = node.fairlead("status")
    assert status == 0
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert lines["fairlead"] == f"fairlead {os.path.basename(node.installed)}"
    assert lines["kernel_settings"].endswith("as saved")
    assert lines["overlay_network"].endswith("differences")


def test_restore_brings_back_both_ip_versions_when_the_node_has_its_addresses(
    node: Node, run_module: RunModule
) -> None:
    """An IPv6 address may come later at boot than the IPv4 one."""
    members = [
        {**member, "address6": f"2001:db8::{number}", "subnet6": f"fd00:10:244:{number}::/64", "mac6": member["mac"]}
        for number, member in enumerate((NODE, *PEERS), 1)
    ]
    node.now.run("ip address add 2001:db8::1/64 dev eth0 nodad")
    networks = {"network": "10.244.0.0/16", "network6": "fd00:10:244::/48"}
    run_module("overlay_network", {**networks, "node": members[0], "peers": members[1:]}, netns=node.now)
    before, before6 = node.datapath(), datapath6(node)
    assert [len(lines) for lines in before6.values()] == [1, 2, 2, 3]
    booted = node.booted(address=True)
    process = booted.start(node.command("restore", "--wait", "300"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        waiting = next(line for line in process.stdout if "waiting" in line)
        assert "node.address6: 2001:db8::1 is on no interface" in waiting
        booted.run("ip address add 2001:db8::1/64 dev eth0 nodad")
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
        process.communicate()
    assert (node.datapath(), datapath6(node)) == (before, before6)
    assert node.fairlead("verify") == (0, "no drift: kernel_settings, overlay_network, masquerade\n")


def datapath6(node: Node) -> dict[str, list[str]]:
    device = "flannel-v6.1"
    routes = [line for line in node.lines(f"ip -6 route show dev {device}") if not line.startswith("fe80:")]
    return {
        "addresses": [
            " ".join(line.split()[1:4]) for line in node.lines(f"ip -6 -o address show dev {device} scope global")
        ],
        "neighbors": node.lines(f"ip -6 neighbor show dev {device} nud permanent"),
        "entries": node.lines(f"bridge fdb show dev {device}"),
        "routes": routes,
    }
