# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The test fixtures keep what they promise: fresh namespaces, nothing left over."""

from __future__ import annotations

import subprocess

from tests.kernel import packets
from tests.kernel.namespaces import NETNS_DIR, Namespaces, remove_abandoned


def test_namespace_is_gone_with_its_processes() -> None:
    namespaces = Namespaces()
    node = namespaces("gone")
    sleeper = node.start("sleep 60")
    assert [link["ifname"] for link in node.json("ip -j link show up")] == ["lo"]
    namespaces.remove()
    assert sleeper.wait(5) < 0
    assert not (NETNS_DIR / node.name).exists()


def test_namespace_of_a_killed_run_is_removed() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"flt-{dead.pid}-1"
    subprocess.run(["ip", "netns", "add", name], check=True)
    remove_abandoned()
    assert not (NETNS_DIR / name).exists()


def test_linked_namespaces_reach_each_other(netns: Namespaces) -> None:
    one, two = netns("one"), netns("two")
    netns.link(one, "e0", two, "e0")
    one.run("ip address add 192.0.2.1/24 dev e0")
    two.run("ip address add 192.0.2.2/24 dev e0")
    with packets.server(two):
        assert packets.ask(one, "192.0.2.2", size=1500) == "192.0.2.1"
        assert packets.silent(one, "192.0.2.2", size=1501)
