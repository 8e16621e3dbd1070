# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A node whose IPv6 default route comes from router advertisements keeps it while it becomes a router itself."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces
from tests.waiting import START_SECONDS, wait_until

FORWARDING, DEFAULT_FORWARDING = "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"
SYSCTLS = {FORWARDING: 1, DEFAULT_FORWARDING: 1}
UPLINK = "up0.7"
# RFC 4861, section 4.2: type, code, checksum (the kernel's work), hop limit, flags, lifetime, two timers; then a prefix
# for addresses (section 4.6.2).
ADVERTISE = """
import socket, struct, sys
lifetime, prefix = int(sys.argv[1]), socket.inet_pton(socket.AF_INET6, "2001:db8:7::")
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("down0"))
option = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, prefix)
sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0) + option, ("ff02::1", 0))
"""


class Node:
    """A namespace with a router on its uplink, and the files that the module keeps for it."""

    def __init__(self, netns: Namespaces, directory: Path, run_module: RunModule) -> None:
        self.netns, self.router = netns("node"), netns("router")
        netns.link(self.netns, UPLINK, self.router, "down0")
        self.paths = {name: directory / name for name in ("modules_file", "sysctl_file", "found_file")}
        self.run_module, self.directory = run_module, directory
        self.write("all/forwarding", 0)

    def run(self, check: bool = False, **args: Any) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.paths.items()}
        return self.run_module("kernel_settings", {**paths, **args}, netns=self.netns, check=check)

    def write(self, name: str, value: int) -> None:
        self.netns.run(["sh", "-c", f"echo {value} > /proc/sys/net/ipv6/conf/{name}"])

    def read(self, name: str) -> str:
        return self.netns.out(["cat", f"/proc/sys/net/ipv6/conf/{name}"]).strip()

    def default_routes(self) -> list[str]:
        return self.netns.out("ip -6 route show default proto ra").splitlines()

    def advertise(self, lifetime: int, expected: bool, within: float = START_SECONDS) -> bool:
        """Whether the default route is there as expected soon after an advertisement."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            # The link-local address of the router has to be settled first, so the first ones may be lost.
            self.router.run([sys.executable, "-c", ADVERTISE, str(lifetime)], check=False)
            time.sleep(0.1)
            if bool(self.default_routes()) == expected:
                return True
        return False


@pytest.fixture
def node(netns: Namespaces, tmp_path: Path, run_module: RunModule) -> Node:
    made = Node(netns, tmp_path, run_module)
    assert made.read(f"{UPLINK}/accept_ra") == "1"
    assert made.advertise(1800, expected=True)
    return made


def watched(node: Node, **args: Any) -> tuple[dict[str, Any], str]:
    """The module's result, and the changes of routes that the kernel told of meanwhile."""
    told = node.directory / "told"
    with told.open("w") as file:
        monitor = node.netns.start("ip -6 monitor route", stdout=file)

    def is_told(marker: str) -> bool:
        """Whether it tells of what happens now, and so has told of all that happened since it first did."""
        node.netns.run(f"ip -6 route replace unreachable {marker}")
        return marker in told.read_text()

    try:
        wait_until(lambda: is_told("2001:db8:ffff::1"), "changes of routes are watched")
        result = node.run(**args)
        wait_until(lambda: is_told("2001:db8:ffff::2"), "all changes of routes are told")
    finally:
        monitor.kill()
        monitor.wait()
    return result, told.read_text()


def test_forwarding_alone_would_cut_the_node_off(node: Node) -> None:
    """Shows that the other tests could fail."""
    node.write("all/forwarding", 1)
    assert node.default_routes() == []
    assert not node.advertise(1800, expected=True, within=2)


def test_default_route_outlives_the_change_to_a_router_and_back(node: Node) -> None:
    done, changes = watched(node, sysctls=SYSCTLS)
    assert node.read("all/forwarding") == node.read("default/forwarding") == node.read(f"{UPLINK}/forwarding") == "1"
    assert node.read(f"{UPLINK}/accept_ra") == "2"
    assert node.default_routes() and "Deleted default" not in changes
    written = [operation for operation in done["operations"] if " sysctl " in operation]
    assert [line.split()[2] for line in written] == ["net.ipv6.conf.up0/7.accept_ra", FORWARDING, DEFAULT_FORWARDING]

    # Still told about routers: one that goes takes its route with it, one that comes gives it.
    assert node.advertise(0, expected=False) and node.advertise(1800, expected=True)
    assert not node.run(sysctls=SYSCTLS)["changed"] and not node.run(sysctls=SYSCTLS, check=True)["changed"]

    undone, changes = watched(node, state="absent")
    written = [operation for operation in undone["operations"] if " sysctl " in operation]
    assert written[0].split()[2] == FORWARDING and "accept_ra = 1" in written[-1]
    assert node.read("all/forwarding") == "0" and node.read(f"{UPLINK}/accept_ra") == "1"
    assert node.default_routes() and "Deleted default" not in changes
    assert node.advertise(0, expected=False) and node.advertise(1800, expected=True)


def test_reboot_comes_to_the_same_in_the_same_order(node: Node) -> None:
    node.run(sysctls=SYSCTLS)
    lines = node.paths["sysctl_file"].read_text().splitlines()[1:]
    assert lines == ["-net.ipv6.conf.up0/7.accept_ra = 2", f"{FORWARDING} = 1", f"{DEFAULT_FORWARDING} = 1"]
    node.write("all/forwarding", 0)
    node.write(f"{UPLINK}/accept_ra", 1)
    assert node.run(sysctls=SYSCTLS)["changed"]
    assert node.read(f"{UPLINK}/accept_ra") == "2" and node.default_routes()
    assert node.paths["sysctl_file"].read_text().splitlines()[1:] == lines
    # The value that a network manager set meanwhile is drift.
    node.write(f"{UPLINK}/accept_ra", 1)
    assert node.run(sysctls=SYSCTLS)["operations"] == [
        "~ sysctl net.ipv6.conf.up0/7.accept_ra = 2 (was sysctl net.ipv6.conf.up0/7.accept_ra = 1)"
    ]


def test_end_of_ipv6_in_the_declaration_gives_the_setting_back(node: Node) -> None:
    node.run(sysctls={"net.ipv4.ip_forward": 1, **SYSCTLS})
    node.run(sysctls={"net.ipv4.ip_forward": 1})
    assert (node.read("all/forwarding"), node.read(f"{UPLINK}/accept_ra")) == ("0", "1")
    assert node.default_routes()
    assert "accept_ra" not in node.paths["sysctl_file"].read_text() + node.paths["found_file"].read_text()


def test_only_links_to_routers_are_kept(node: Node, netns: Namespaces) -> None:
    """Neither pods' devices, nor ports of bridges, nor what takes no advertisements, nor what forwards already."""
    for name in ("veth0123", "cni0", "flannel.1", "port0", "quiet0", "br0"):
        kind = "bridge" if name in ("cni0", "br0") else "veth"
        node.netns.run(["ip", "link", "add", name, "type", kind])
    node.netns.run("ip link set port0 master br0")
    node.write("quiet0/accept_ra", 0)
    node.run(sysctls=SYSCTLS)
    found = {name for name in json.loads(node.paths["found_file"].read_text()) if name.endswith(".accept_ra")}
    assert found == {"net.ipv6.conf.br0.accept_ra", "net.ipv6.conf.up0/7.accept_ra"}
    assert node.read("port0/accept_ra") == node.read("veth0123/accept_ra") == node.read("default/accept_ra") == "1"


def test_node_that_is_a_router_already_keeps_what_its_owner_chose(node: Node) -> None:
    node.write("all/forwarding", 1)
    done = node.run(sysctls=SYSCTLS)
    assert not [operation for operation in done["operations"] if "accept_ra" in operation]
    assert node.read(f"{UPLINK}/accept_ra") == "1"


def test_declared_setting_of_a_device_wins(node: Node) -> None:
    name = "net.ipv6.conf.up0/7.accept_ra"
    node.run(sysctls={**SYSCTLS, name: 0})
    assert node.read(f"{UPLINK}/accept_ra") == "0"
    assert node.paths["sysctl_file"].read_text().count(name) == 1


def test_refused_forwarding_leaves_the_node_as_it_was(node: Node) -> None:
    result = node.run_module(
        "kernel_settings",
        {**{key: str(path) for key, path in node.paths.items()},
         "sysctls": {**SYSCTLS, "net.ipv4.ip_local_reserved_ports": "70000"}},
        netns=node.netns, fails=True,
    )  # fmt: skip
    assert "the kernel refuses this value" in result["msg"]
    assert (node.read("all/forwarding"), node.read(f"{UPLINK}/accept_ra")) == ("0", "1")
    assert node.default_routes()
