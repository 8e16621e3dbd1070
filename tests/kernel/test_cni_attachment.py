# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module cni_attachment with the real plugins: what is on the node afterwards, seen by ip, packets and files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.cni import bridge_plugins
from ansible_collections.fairlead.cluster.plugins.module_utils._model.parse import Section
from tests.kernel import packets
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import NETNS_DIR, Namespace, Namespaces

PLUGINS = "/usr/lib/cni"


class Node:
    """A node's network namespace with a CNI network, and everything that plugins write in a directory of its own."""

    def __init__(self, namespace: Namespace, run_module: RunModule, directory: Path) -> None:
        self.namespace = namespace
        self.name = namespace.name
        self.directory = directory
        self.conf = directory / "net.d" / "10-net.conflist"
        self.module = run_module
        self.pods: list[str] = []
        self.configure()

    def command(self, words: Sequence[str]) -> list[str]:
        """Enters only the network namespace: what a module mounts under /run/netns is seen outside."""
        return ["nsenter", f"--net={NETNS_DIR / self.name}", *words]

    def configure(self, *more: dict[str, Any], **bridge: Any) -> None:
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "networks"),
            "ranges": [[{"subnet": "10.244.1.0/24"}]],
        }
        plugin = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "mtu": 1450}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        plugins = [{**plugin, **bridge, "ipam": ipam}, portmap, *more]
        self.conf.parent.mkdir(exist_ok=True)
        self.conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))

    def pod(self, label: str = "pod") -> str:
        """The name of a namespace that may be made; it is removed after the test."""
        self.pods.append(f"{self.name}-{label}")
        return self.pods[-1]

    def attach(self, pod: str, state: str = "present", **options: Any) -> dict[str, Any]:
        how = {key: options.pop(key) for key in ("check", "diff", "fails") if key in options}
        arguments = {
            "network": "net",
            "container_id": "c-1",
            "netns": pod,
            "conf_dir": str(self.conf.parent),
            "cache_dir": str(self.directory / "cache"),
            "plugin_dirs": [str(self.directory / "bin"), PLUGINS],
            "state": state,
        }
        return self.module("cni_attachment", {**arguments, **options}, netns=self, **how)  # type: ignore[arg-type]

    def ports(self) -> list[str]:
        return [link["ifname"] for link in self.namespace.json("ip -j link show type veth")]

    def reserved(self) -> list[str]:
        directory = self.directory / "networks" / "net"
        return sorted(path.name for path in directory.glob("10.*")) if directory.exists() else []

    def cached(self) -> list[str]:
        directory = self.directory / "cache" / "results"
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def nothing_left(self) -> bool:
        return (self.ports(), self.reserved(), self.cached()) == ([], [], [])

    def remove(self) -> None:
        for pod in self.pods:
            subprocess.run(["ip", "netns", "delete", pod], capture_output=True, check=False)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/run/fairlead/netns/{pod}")


@pytest.fixture
def node(netns: Namespaces, run_module: RunModule, tmp_path: Path) -> Iterator[Node]:
    node = Node(netns("node"), run_module, tmp_path)
    try:
        yield node
    finally:
        node.remove()


def entered(pod: str) -> Namespace:
    """A namespace that others made, to look into it."""
    namespace = object.__new__(Namespace)
    namespace.name = pod
    return namespace


def address_in(pod: str) -> str:
    [link] = entered(pod).json("ip -j -4 address show dev eth0")
    [address] = link["addr_info"]
    return f"{address['local']}/{address['prefixlen']}"


def fake_plugin(node: Node, name: str, script: str) -> None:
    """A program in the first plugin directory. It runs ``script`` with the command (ADD, ...) as $CNI_COMMAND."""
    program = node.directory / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_pod_gets_interface_address_and_routes(node: Node) -> None:
    pod = node.pod()
    result = node.attach(pod)
    assert result["changed"] and result["addresses"] == [address_in(pod)] == ["10.244.1.2/24"]
    [link] = entered(pod).json("ip -j link show dev eth0")
    assert link["mtu"] == 1450 and link["operstate"] == "UP"
    routes = {route["dst"]: route.get("gateway") for route in entered(pod).json("ip -j route")}
    assert routes["default"] == "10.244.1.1"
    assert node.namespace.json("ip -j -4 address show dev cni0")[0]["addr_info"][0]["local"] == "10.244.1.1"
    assert len(node.ports()) == 1 and node.reserved() == ["10.244.1.2"]
    assert {interface["name"] for interface in result["interfaces"]} == {"cni0", "eth0", *node.ports()}


def test_pods_of_a_dual_stack_node_talk_by_both_families_at_once(node: Node) -> None:
    """What module cni_network writes for such a node; no address of a pod waits for duplicates to be looked for."""
    short = {"subnets": ["10.244.1.0/24", "fd00:1::/64"], "routes": ["10.244.0.0/16", "fd00::/48"], "mtu": 1430}
    plugins = bridge_plugins(Section(short))
    plugins[0]["ipam"]["dataDir"] = str(node.directory / "networks")
    node.conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))
    pods = [node.pod("one"), node.pod("two")]
    found = [node.attach(pod, container_id=pod)["addresses"] for pod in pods]
    assert found == [["10.244.1.2/24", "fd00:1::2/64"], ["10.244.1.3/24", "fd00:1::3/64"]]
    one, two = map(entered, pods)
    assert "tentative" not in one.out("ip -6 address show dev eth0") + two.out("ip -6 address show dev eth0")
    for address, source in (("10.244.1.3", "10.244.1.2"), ("fd00:1::3", "fd00:1::2")):
        with packets.server(two):
            assert packets.ask(one, address, 1430) == source
            assert packets.silent(one, address, 1431)
    gateways = {family: one.json(f"ip -j {family} route show default")[0]["gateway"] for family in ("-4", "-6")}
    assert gateways == {"-4": "10.244.1.1", "-6": "fd00:1::1"}
    held = [entry["local"] for entry in node.namespace.json("ip -j address show dev cni0")[0]["addr_info"]]
    assert {"10.244.1.1", "fd00:1::1"} <= set(held)
    assert node.namespace.out("cat /proc/sys/net/ipv6/conf/cni0/accept_ra") == "0\n"
    for pod in pods:
        assert node.attach(pod, "absent", container_id=pod)["changed"]
    assert node.nothing_left()


def test_result_is_kept_as_libcni_keeps_it(node: Node) -> None:
    pod = node.pod()
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    result = node.attach(pod, capability_args={"portMappings": [mapping]})
    path = node.directory / "cache" / "results" / "net-c-1-eth0"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    entry = json.loads(path.read_text())
    config = json.loads(base64.b64decode(entry.pop("config")))
    assert (config["name"], len(config["plugins"])) == ("net", 2)
    assert entry == {
        "kind": "cniCacheV1",
        "containerId": "c-1",
        "ifName": "eth0",
        "networkName": "net",
        "netns": f"/run/netns/{pod}",
        "capabilityArgs": {"portMappings": [mapping]},
        "result": result["result"],
    }


def test_twelve_steps(node: Node) -> None:
    pod = node.pod()
    assert node.attach(pod, check=True)["changed"] and node.nothing_left()
    assert not (NETNS_DIR / pod).exists()
    assert node.attach(pod)["changed"]
    before = (node.ports(), node.reserved(), address_in(pod))
    assert not node.attach(pod)["changed"] and not node.attach(pod, check=True)["changed"]
    assert (node.ports(), node.reserved(), address_in(pod)) == before

    node.configure(mtu=1400)
    assert node.attach(pod, check=True)["changed"]
    assert entered(pod).json("ip -j link show dev eth0")[0]["mtu"] == 1450
    assert node.attach(pod)["changed"]
    assert entered(pod).json("ip -j link show dev eth0")[0]["mtu"] == 1400
    assert not node.attach(pod)["changed"]

    assert node.attach(pod, "absent", check=True)["changed"] and len(node.ports()) == 1
    assert node.attach(pod, "absent")["changed"]
    assert node.nothing_left() and not (NETNS_DIR / pod).exists()
    assert not node.attach(pod, "absent")["changed"] and not node.attach(pod, "absent", check=True)["changed"]


def test_pods_of_one_bridge_reach_each_other_with_full_packets(node: Node) -> None:
    one, two = node.pod("one"), node.pod("two")
    node.attach(one, container_id="one")
    address = node.attach(two, container_id="two")["addresses"][0].split("/")[0]
    with packets.server(entered(two)):
        assert packets.ask(entered(one), address, size=1450) == address_in(one).split("/")[0]
        assert packets.silent(entered(one), address, size=1451)


def test_mapped_port_leads_to_the_pod_and_goes_with_it(node: Node, netns: Namespaces) -> None:
    outside, pod = netns("outside"), node.pod()
    netns.link(node.namespace, "e0", outside, "e0")
    node.namespace.run("ip address add 192.0.2.1/24 dev e0")
    outside.run("ip address add 192.0.2.2/24 dev e0")
    mapping = {"hostPort": 5353, "containerPort": packets.PORT, "protocol": "udp"}
    node.attach(pod, capability_args={"portMappings": [mapping]})
    with packets.server(entered(pod)):
        assert packets.ask(outside, "192.0.2.1", port=5353) == "192.0.2.2"
    assert not node.attach(pod, capability_args={"portMappings": [mapping]})["changed"]
    node.attach(pod, "absent")
    assert "5353" not in node.namespace.out("iptables-save -t nat")


def test_check_finds_what_others_changed_and_present_repairs_it(node: Node) -> None:
    pod = node.pod()
    node.attach(pod)
    assert not node.attach(pod, "checked")["changed"]
    entered(pod).run("ip address flush dev eth0")
    failed = node.attach(pod, "checked", fails=True)
    assert "CNI plugin bridge: CHECK failed" in failed["msg"] and pod in failed["msg"]
    assert node.attach(pod)["changed"]
    assert address_in(pod).startswith("10.244.1.") and len(node.reserved()) == len(node.ports()) == 1
    node.attach(pod, "checked")


def test_checked_says_when_there_is_no_attachment(node: Node) -> None:
    assert "is not attached to network net" in node.attach(node.pod(), "checked", fails=True)["msg"]


def test_vanished_namespace_is_no_obstacle(node: Node) -> None:
    pod = node.pod()
    node.attach(pod)
    subprocess.run(["ip", "netns", "delete", pod], check=True)
    assert node.reserved() == ["10.244.1.2"], "nobody gave the address back"
    assert "network namespace" in node.attach(pod, "checked", fails=True)["msg"]
    assert node.attach(pod)["changed"]
    assert len(node.reserved()) == 1 and address_in(pod).split("/")[0] in node.reserved()
    subprocess.run(["ip", "netns", "delete", pod], check=True)
    assert node.attach(pod, "absent")["changed"]
    assert node.nothing_left()


def test_namespace_made_by_others_stays(node: Node, netns: Namespaces) -> None:
    pod = netns("foreign")
    node.attach(pod.name)
    node.attach(pod.name, "absent")
    assert (NETNS_DIR / pod.name).exists() and node.nothing_left()
    node.attach(str(NETNS_DIR / pod.name))
    node.attach(str(NETNS_DIR / pod.name), "absent")
    assert (NETNS_DIR / pod.name).exists() and node.nothing_left()


def test_missing_namespace_given_by_path_is_refused(node: Node) -> None:
    result = node.attach("/run/netns/flt-none", fails=True)
    assert "/run/netns/flt-none: no network namespace" in result["msg"] and node.nothing_left()


def test_foreign_interface_is_not_touched(node: Node, netns: Namespaces) -> None:
    pod = netns("pod")
    pod.run("ip link add eth0 type veth peer name eth0-peer")
    result = node.attach(pod.name, fails=True)
    assert "eth0 is there already, made by others" in result["msg"]
    assert pod.json("ip -j link show dev eth0") and node.nothing_left()


def test_failing_plugin_is_named_and_leaves_nothing(node: Node) -> None:
    fake_plugin(node, "broken", """test $CNI_COMMAND = ADD || exit 0
        echo '{"cniVersion": "1.0.0", "code": 7, "msg": "no good", "details": "line 3"}'; exit 1""")  # fmt: skip
    node.configure({"type": "broken"})
    pod = node.pod()
    result = node.attach(pod, fails=True)
    assert "CNI plugin broken: ADD failed (code 7, invalid network configuration): no good; line 3" in result["msg"]
    assert node.nothing_left() and not (NETNS_DIR / pod).exists()


def test_attachment_whose_check_fails_at_once_is_undone(node: Node) -> None:
    fake_plugin(node, "picky", """test $CNI_COMMAND = CHECK && { echo '{"code": 100, "msg": "never"}'; exit 1; }
        test $CNI_COMMAND = ADD && cat | sed 's/.*"prevResult": //; s/}$//' ; exit 0""")  # fmt: skip
    node.configure({"type": "picky"})
    pod = node.pod()
    assert "never" in node.attach(pod, fails=True)["msg"]
    assert node.nothing_left() and not (NETNS_DIR / pod).exists()


@pytest.mark.parametrize("lost", ["result", "result and namespace"])
def test_what_a_killed_run_left_is_healed(node: Node, lost: str) -> None:
    pod = node.pod()
    node.attach(pod)
    (node.directory / "cache" / "results" / "net-c-1-eth0").unlink()
    if "namespace" in lost:
        subprocess.run(["ip", "netns", "delete", pod], check=True)
    assert node.attach(pod)["changed"]
    assert len(node.reserved()) == len(node.ports()) == len(node.cached()) == 1
    (node.directory / "cache" / "results" / "net-c-1-eth0").unlink()
    node.attach(pod, "absent")
    assert node.nothing_left()


def test_detaching_works_after_the_configuration_is_gone(node: Node) -> None:
    pod = node.pod()
    node.attach(pod)
    node.conf.unlink()
    node.attach(pod, "absent")
    assert node.nothing_left() and not (NETNS_DIR / pod).exists()
    assert "no file in" in node.attach(pod, fails=True)["msg"]


def test_loopback_network_sets_lo_up(node: Node, netns: Namespaces) -> None:
    pod = netns("pod")
    pod.run("ip link set lo down")
    loopback = node.conf.parent / "99-loopback.conflist"
    loopback.write_text('{"cniVersion": "1.0.0", "name": "loopback", "plugins": [{"type": "loopback"}]}')
    node.attach(pod.name, network=str(loopback), ifname="lo")
    assert "UP" in pod.json("ip -j link show dev lo")[0]["flags"]


def test_network_in_use_is_not_removed_unless_asked_for(node: Node) -> None:
    pod = node.pod()
    node.attach(pod)
    absent = {
        "path": str(node.conf), "state": "absent", "cache_dir": str(node.directory / "cache"), "plugin_dirs": [PLUGINS],
    }  # fmt: skip
    refused = node.module("cni_network", absent, netns=node, fails=True)  # type: ignore[arg-type]
    assert "network net is in use (attached: c-1 eth0)" in refused["msg"]
    assert node.conf.exists() and len(node.ports()) == 1
    node.module("cni_network", {**absent, "detach": True}, netns=node)  # type: ignore[arg-type]
    assert node.nothing_left() and not node.conf.exists()
    assert node.namespace.json("ip -j link show type bridge") == []
    assert not (node.directory / "networks" / "net").exists()
