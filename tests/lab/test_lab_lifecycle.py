# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what its nodes are, what its verbs do to them, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import processes, state
from lab.network import BRIDGE
from tests.lab.cluster import HANG_SECONDS
from tests.waiting import wait_until

pytestmark = pytest.mark.lab

INVENTORY = """
all:
  vars: {{lab_name: {name}, lab_lan: 192.0.2.0/24, lab_features: {features}, ansible_user: root}}
  hosts: {{{hosts}}}
"""


class Lab:
    """A lab driven from outside, through its command line."""

    def __init__(self, name: str, directory: Path, nodes: int, features: str = "[veth]") -> None:
        # Two runs of the tests on one machine are apart.
        self.name = f"{name}-{os.getpid()}"
        self.inventory = directory / name
        self.inventory.mkdir()
        self.nodes = {f"n{number}": f"192.0.2.{10 + number}" for number in range(1, nodes + 1)}
        hosts = ", ".join(f"{node}: {{ansible_host: {address}}}" for node, address in self.nodes.items())
        text = INVENTORY.format(name=self.name, features=features, hosts=hosts)
        (self.inventory / "hosts.yml").write_text(text)

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "lab", verb, "--inventory", str(self.inventory), *arguments]

    def __call__(self, verb: str, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            self.command(verb, *arguments), cwd=state.REPO, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=HANG_SECONDS,
        )  # fmt: skip
        assert done.returncode == expect, f"{verb} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def on(self, node: str, script: str, expect: int = 0) -> str:
        return self("ssh", node, script, expect=expect)

    def await_answer(self, source: str, target: str) -> None:
        wait_until(lambda: self.pings(source, target), f"{source} reaches {target}")

    def pings(self, source: str, target: str) -> bool:
        script = f"ping -q -c 1 -W 1 {self.nodes[target]} >/dev/null && echo yes || echo no"
        return self.on(source, script).strip() == "yes"

    def states(self) -> dict[str, str]:
        listing = json.loads(self("status", "--json"))
        return {row["node"]: row["state"] for row in listing["nodes"]}

    def recorded(self) -> list[processes.Process]:
        # Not in files of nodes, which come and go while one boots.
        places = [state.lab_dir(self.name), *state.lab_dir(self.name).glob("nodes/*")]
        records = [json.loads(path.read_text()) for place in places for path in place.glob("*.json")]
        return [processes.Process(one["pid"], one["start"]) for one in records if "pid" in one]

    def leftovers(self) -> list[str]:
        """Every trace of the lab on this host, as text."""
        netns = f"fl-{self.name}"
        paths = [state.LABS / self.name, Path("/run") / netns, Path("/run/netns") / netns]
        groups = [path for path in Path("/sys/fs/cgroup").glob(f"**/{netns}") if path.is_dir()]
        namespaces = output("ip", "netns", "list").split()
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{self.name}/" in line]
        marked = [str(one) for one in processes.marked(state.LABS / self.name)]
        found = [str(path) for path in paths + groups if path.exists()]
        return found + [name for name in namespaces if name == netns] + mounts + marked


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def host_network() -> dict[str, Any]:
    """Links (without counters), addresses and routes of the host's own namespace."""
    links = [link["ifname"] for link in json.loads(output("ip", "-json", "link"))]
    addresses = [
        (link["ifname"], address["local"])
        for link in json.loads(output("ip", "-json", "address"))
        for address in link["addr_info"]
    ]
    return {"links": links, "addresses": addresses, "routes": output("ip", "route", "show", "table", "all")}


@contextlib.contextmanager
def running(lab: Lab, *arguments: str) -> Iterator[Lab]:
    try:
        lab("up", *arguments)
        yield lab
    finally:
        lab("down")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two containers, both on, for tests that leave them so."""
    with running(Lab("pair", tmp_path_factory.mktemp("inventories"), 2)) as lab:
        yield lab


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Lab]:
    def make_lab(name: str, nodes: int = 1, features: str = "[veth]") -> Lab:
        return Lab(name, tmp_path, nodes, features)

    return make_lab


def test_nodes_are_systemd_machines_with_the_inventory_s_names_and_addresses(pair: Lab) -> None:
    script = "hostname; cat /proc/1/comm; ip -brief -4 address show dev eth0; cat /etc/machine-id"
    lines = {node: pair.on(node, script).split() for node in pair.nodes}
    for node, address in pair.nodes.items():
        assert lines[node][:2] == [node, "systemd"]
        assert f"{address}/24" in lines[node]
    assert lines["n1"][-1] != lines["n2"][-1]


def test_up_again_changes_nothing_and_says_so(pair: Lab) -> None:
    before = sorted(pair.recorded(), key=lambda one: one.pid)
    assert "nothing to do" in pair("up")
    assert sorted(pair.recorded(), key=lambda one: one.pid) == before


def test_a_second_lab_with_the_same_addresses_is_apart(pair: Lab, make: Callable[..., Lab]) -> None:
    other = make("other")
    with running(other):
        other.on("n1", "touch /root/only-here")
        pair.on("n1", "test ! -e /root/only-here")
    assert other.leftovers() == []
    assert pair.states() == {"n1": "on", "n2": "on"}
    pair.await_answer("n1", "n2")


def test_nodes_can_make_namespaces_links_and_set_network_sysctls(pair: Lab) -> None:
    pair.on(
        "n1",
        "set -e; ip netns add pod; trap 'ip netns delete pod' EXIT;"
        "ip link add va type veth peer name vb; ip link set vb netns pod;"
        "ip netns exec pod ip link set vb up; sysctl -q -w net.ipv4.ip_forward=1;"
        "systemd-run --quiet --wait -p NetworkNamespacePath=/run/netns/pod ip link show dev vb",
    )


def test_lab_serves_files_and_a_package_source(pair: Lab) -> None:
    (state.lab_dir(pair.name) / "files" / "hello").write_text("from the host")
    fetch = "import urllib.request as r; print(r.urlopen('http://192.0.2.1/files/hello', timeout=60).read().decode())"
    assert pair.on("n1", f'python3 -c "{fetch}"').strip() == "from the host"
    assert "http://192.0.2.1/debian" in pair.on("n1", "apt-get update -o APT::Update::Error-Mode=any")


def test_reboot_keeps_the_disk_and_loses_kernel_network_state(pair: Lab) -> None:
    pair.on("n1", "touch /root/kept; ip link add br-gone type bridge; ip link add v-gone type veth; ip netns add gone")
    pair("reboot", "n1")
    pair.on("n1", "test -e /root/kept; test ! -e /run/netns/gone")
    links = pair.on("n1", "ip -brief link")
    assert "gone" not in links
    pair.await_answer("n2", "n1")


def test_reboot_from_inside_boots_again(pair: Lab) -> None:
    def boots_of(node: str) -> int:
        return next(row["boots"] for row in json.loads(pair("status", "--json"))["nodes"] if row["node"] == node)

    boots = boots_of("n2")
    pair.on("n2", "systemd-run --quiet --on-active=0 systemctl reboot")
    wait_until(lambda: boots_of("n2") != boots, "the node boots again", 180)
    assert boots_of("n2") == boots + 1
    pair("up")
    pair.await_answer("n1", "n2")


def test_power_loss_takes_a_node_away_and_up_brings_it_back(pair: Lab) -> None:
    pair.on("n1", "touch /root/survives; sync")
    pair("kill", "n1")
    try:
        assert pair.states() == {"n1": "off", "n2": "on"}
        assert not pair.pings("n2", "n1")
    finally:
        pair("up", "n1")
    pair.on("n1", "test -e /root/survives")
    pair.await_answer("n2", "n1")


def gateway_mac(lab: Lab) -> str:
    command = ["ip", "-n", state.netns_name(lab.name), "-j", "link", "show", "dev", BRIDGE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return str(json.loads(done.stdout)[0]["address"])


def test_cut_node_is_alone_until_healed_also_after_its_reboot(pair: Lab) -> None:
    gateway = gateway_mac(pair)
    pair("cut", "n1")
    try:
        # Nodes remember it for minutes: another one would take the gateway away from them.
        assert gateway_mac(pair) == gateway
        assert pair.states() == {"n1": "cut", "n2": "on"}
        assert not pair.pings("n2", "n1")
        pair("reboot", "n1")
        assert not pair.pings("n2", "n1")
    finally:
        pair("heal")
    pair("up")
    pair.await_answer("n2", "n1")


def test_unknown_node_is_refused(pair: Lab) -> None:
    assert f"no node n9 in lab {pair.name}; it has n1, n2" in pair("kill", "n9", expect=1)


def test_changed_address_is_refused_while_the_lab_exists(pair: Lab) -> None:
    hosts = pair.inventory / "hosts.yml"
    text = hosts.read_text()
    hosts.write_text(text.replace("192.0.2.12", "192.0.2.99"))
    try:
        assert "addresses changed (n2)" in pair("up", expect=1)
    finally:
        hosts.write_text(text)
    pair.await_answer("n1", "n2")


def test_node_that_left_the_inventory_leaves_the_lab(make: Callable[..., Lab]) -> None:
    lab = make("leaving", nodes=2)
    with running(lab):
        gone = [one for one in lab.recorded() if one.alive]
        hosts = lab.inventory / "hosts.yml"
        hosts.write_text(hosts.read_text().replace(", n2: {ansible_host: 192.0.2.12}", ""))
        lab("up")
        assert lab.states() == {"n1": "on"}
        assert len([one for one in gone if not one.alive]) == 2
    assert lab.leftovers() == []


def test_host_s_own_namespace_never_changes(make: Callable[..., Lab]) -> None:
    before = host_network()
    lab = make("quiet")
    with running(lab):
        assert host_network() == before
    assert host_network() == before
    assert lab.leftovers() == []


def test_down_cleans_after_up_was_killed_halfway_and_supervisors_too(make: Callable[..., Lab]) -> None:
    lab = make("crash", nodes=2)
    home = state.lab_dir(lab.name) / "nodes"
    starting = subprocess.Popen(lab.command("up"), cwd=state.REPO, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until((home / "n1" / "boot.json").exists, "the first node boots", HANG_SECONDS, every=0.01)
        starting.kill()
        starting.wait()
        recorded = lab.recorded()
        supervisor = json.loads((home / "n1" / "supervisor.json").read_text())
        os.kill(supervisor["pid"], signal.SIGKILL)
    finally:
        lab("down")
    assert len(recorded) >= 3
    assert [one for one in recorded if one.alive] == []
    assert lab.leftovers() == []
    assert "nothing to remove" in lab("down")


def test_down_finds_everything_without_the_lab_s_records(make: Callable[..., Lab]) -> None:
    lab = make("amnesia")
    with running(lab):
        recorded = lab.recorded()
        home = state.lab_dir(lab.name)
        for path in [home / "lab.json", *home.glob("nodes/*/*.json")]:
            path.unlink()
        lab("down", "--name", lab.name)
        assert [one for one in recorded if one.alive] == []
        assert lab.leftovers() == []


def test_uml_node_has_ip_vs_and_survives_reboot_and_power_loss(make: Callable[..., Lab]) -> None:
    lab = make("kernel", features="[ip_vs, dummy]")
    with running(lab, "--kind", "uml"):
        assert lab.on("n1", "modprobe ip_vs && cat /proc/net/ip_vs").startswith("IP Virtual Server")
        assert lab.on("n1", "uname -r").strip() != os.uname().release
        lab.on("n1", "touch /root/kept; sync; ip link add d-gone type dummy")
        lab("reboot", "n1")
        lab.on("n1", "test -e /root/kept; ! ip link show dev d-gone")
        lab("kill", "n1")
        assert lab.states() == {"n1": "off"}
        lab("up")
        lab.on("n1", "test -e /root/kept")
        recorded = lab.recorded()
    assert [one for one in recorded if one.alive] == []
    assert lab.leftovers() == []
