# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module reachability and the probe program: what they say of paths that were made good or bad on purpose.

Responders run here as plain processes; as services of systemd they are tested on lab nodes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.waiting import wait_until

PORT = 9931
POD, OTHER, OTHER_NODE = "10.1.1.2", "10.1.2.2", "10.9.9.9"


class RoutedPath:
    """Two pods with a router between them: pod (eth0) - (a) router (b) - (eth0) other, both families.

    The other side has a second address on ``lo``, so routing alone would answer from the wrong one.
    """

    def __init__(self, netns: Namespaces, program: Path) -> None:
        self.pod, self.router, self.other = netns("pod"), netns("router"), netns("other")
        self.program = program
        for namespace in (self.pod, self.router, self.other):
            # Without waiting for duplicate address detection, which takes its time on link-local addresses too.
            namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
        for index, (end, port) in enumerate([(self.pod, "p1"), (self.other, "p2")], 1):
            netns.link(end, "eth0", self.router, port)
            for network, length in ((f"10.1.{index}.", 24), (f"fd00:{index}::", 64)):
                nodad = ["nodad"] if ":" in network else []
                end.run(["ip", "address", "add", f"{network}2/{length}", "dev", "eth0", *nodad])
                self.router.run(["ip", "address", "add", f"{network}1/{length}", "dev", port, *nodad])
                end.run(["ip", "route", "add", "default", "via", f"{network}1"])
        self.other.run(f"ip address add {OTHER_NODE}/32 dev lo")
        self.router.run(f"ip route add {OTHER_NODE}/32 via {OTHER}")
        self.router.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def respond(self, namespace: Namespace) -> subprocess.Popen[str]:
        process = namespace.start(
            [sys.executable, str(self.program), "serve", f"--port={PORT}"], stderr=subprocess.PIPE
        )
        # The socket that is made last.
        last = f"[::]:{PORT}"
        wait_until(lambda: process.poll() is not None or last in namespace.out("ss -Hlnu"), "the responder listens")
        assert process.poll() is None, process.communicate()
        return process


@pytest.fixture
def path(netns: Namespaces, root_dir: Path) -> Iterator[RoutedPath]:
    path = RoutedPath(netns, root_dir / "runtime" / "probe.py")
    responder = path.respond(path.other)
    try:
        yield path
    finally:
        responder.kill()
        responder.communicate()


@pytest.fixture
def probe(path: RoutedPath, run_module: RunModule) -> Any:
    """Probe from the pod, which stands for node and pod; results by target, with the module's answer under ``""``."""

    def run(*targets: dict[str, Any], fails: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {
            "state": "probed",
            "source": "here",
            "netns": path.pod.name,
            "command": [sys.executable, str(path.program)],
            "targets": [{"name": target["address"], "kind": "pod-pod", **target} for target in targets],
            "timeout": 5,
            **options,
        }
        result = run_module("reachability", arguments, netns=path.pod, fails=fails)
        return {"": result, **{entry["address"]: entry for entry in result["results"]}}

    return run


def test_good_path_is_told_with_its_figures(probe: Any) -> None:
    found = probe({"address": OTHER}, {"address": "fd00:2::2"})
    assert found[OTHER] == {
        "source": "here", "target": OTHER, "kind": "pod-pod", "address": OTHER, "ok": True, "error": "",
        "reachable": True, "seen_source": POD, "nat": False, "path_mtu": 1500, "expected_mtu": 1500,
        "rtt_ms": found[OTHER]["rtt_ms"],
    }  # fmt: skip
    assert found[OTHER]["rtt_ms"] > 0
    six = found["fd00:2::2"]
    assert (six["ok"], six["seen_source"], six["path_mtu"]) == (True, "fd00:1::2", 1500)
    assert not found[""]["changed"] and found[""]["failures"] == []


def test_answer_comes_from_the_address_that_was_asked(probe: Any) -> None:
    assert probe({"address": OTHER_NODE, "kind": "pod-node"})[OTHER_NODE]["reachable"]


@pytest.mark.parametrize("mtu", [1499, 1400, 1300])
def test_lowered_mtu_of_a_router_is_found_to_the_byte(path: RoutedPath, probe: Any, mtu: int) -> None:
    path.router.run(f"ip link set p2 mtu {mtu}")
    found = probe({"address": OTHER}, {"address": "fd00:2::2"}, fails=True)
    for address in (OTHER, "fd00:2::2"):
        assert (found[address]["path_mtu"], found[address]["expected_mtu"], found[address]["ok"]) == (mtu, 1500, False)
    assert f"pod-pod here -> {OTHER} ({OTHER}): path MTU is {mtu}, below the 1500" in found[""]["msg"]


def test_silently_dropped_large_packets_are_found(path: RoutedPath, probe: Any) -> None:
    """No router says anything: the black hole of path MTU discovery."""
    path.router.run("nft add table inet t")
    path.router.run(["nft", "add chain inet t f { type filter hook forward priority 0; }"])
    path.router.run("nft add rule inet t f meta length > 1200 drop")
    assert probe({"address": OTHER}, report_only=True)[OTHER]["path_mtu"] == 1200


def test_expected_mtu_may_be_given(path: RoutedPath, probe: Any) -> None:
    path.router.run("ip link set p2 mtu 1400")
    assert probe({"address": OTHER, "expected_mtu": 1400})[OTHER]["ok"]


def test_nat_is_found_by_the_source_that_the_other_side_saw(path: RoutedPath, probe: Any) -> None:
    path.router.run("iptables -t nat -A POSTROUTING -o p2 -j MASQUERADE")
    found = probe({"address": OTHER}, {"address": OTHER_NODE, "kind": "pod-node"}, fails=True)
    assert (found[OTHER]["nat"], found[OTHER]["seen_source"], found[OTHER]["ok"]) == (True, "10.1.2.1", False)
    assert (found[OTHER_NODE]["nat"], found[OTHER_NODE]["ok"]) == (True, True), "towards nodes NAT is only told"
    assert found[""]["msg"].startswith("1 of 2 probes failed: pod-pod here -> 10.1.2.2")


def test_nat_of_udp_alone_is_found(path: RoutedPath, probe: Any) -> None:
    path.router.run("iptables -t nat -A POSTROUTING -p udp -o p2 -j MASQUERADE")
    found = probe({"address": OTHER}, report_only=True)[OTHER]
    assert found["nat"] and found["seen_source"] == "10.1.1.2, 10.1.2.1"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("-p tcp -j DROP", "TCP: no answer in time"),
        ("-p udp -j DROP", "UDP: no answer within 0.5 s, asked 3 times"),
        ("-p tcp -j REJECT", "TCP: connection refused"),
    ],
)
def test_what_does_not_answer_is_told(path: RoutedPath, probe: Any, rule: str, words: str) -> None:
    path.router.run(f"iptables -A FORWARD -d {OTHER} {rule}")
    found = probe({"address": OTHER}, report_only=True, timeout=0.5)
    assert (found[OTHER]["reachable"], found[OTHER]["ok"], found[OTHER]["error"]) == (False, False, words)
    assert found[""]["failures"] == [f"pod-pod here -> {OTHER} ({OTHER}): {words}"]


def test_one_dead_target_does_not_hide_the_others(probe: Any) -> None:
    targets = [{"address": address} for address in ("10.1.2.77", OTHER, "fd00:3::1")]
    found = probe(*targets, report_only=True)
    assert [found[address]["ok"] for address in ("10.1.2.77", OTHER, "fd00:3::1")] == [False, True, False]


def test_target_that_comes_up_while_waiting_is_reached(path: RoutedPath, probe: Any) -> None:
    path.other.run("ip link set eth0 down")
    comes_up = path.other.start(["sh", "-c", "sleep 2; ip link set eth0 up; ip route add default via 10.1.2.1"])
    try:
        assert probe({"address": OTHER}, wait=120)[OTHER]["ok"]
    finally:
        comes_up.wait()


def test_small_or_foreign_datagrams_get_no_answer(path: RoutedPath) -> None:
    """A responder must not be of use for multiplying traffic."""
    asker = f"""import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
small = b"fairlead-probe 1 0123456789abcdef"
for data, seconds in ((b"x" * 400, 0.3), (small, 0.3), (small.ljust(160), 20)):
    sock.settimeout(seconds)
    sock.sendto(data, ("{OTHER}", {PORT}))
    try:
        print(len(sock.recv(4096)))
    except OSError:
        print(0)
"""
    small, foreign, proper = map(int, path.pod.out([sys.executable, "-c", asker]).split())
    assert (small, foreign) == (0, 0) and 0 < proper <= 160


def test_taken_port_is_an_error_that_names_it(path: RoutedPath) -> None:
    done = path.other.run([sys.executable, str(path.program), "serve", f"--port={PORT}"], check=False)
    assert done.returncode == 1 and f"port {PORT}: Address already in use" in done.stderr


def test_responder_ends_after_its_time_and_reports_ready_to_systemd(path: RoutedPath, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        command = [sys.executable, str(path.program), "serve", "--port=9932", "--seconds=0.2"]
        started = time.monotonic()
        path.pod.run(["env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", *command])
        assert time.monotonic() - started < 120
        notify.settimeout(20)
        assert notify.recv(100) == b"READY=1"


def test_missing_program_and_namespace_are_named(path: RoutedPath, run_module: RunModule) -> None:
    target = {"name": "x", "address": OTHER, "kind": "pod-pod"}
    wanted = {
        "state": "probed",
        "netns": path.pod.name,
        "targets": [target],
        "command": ["/nonesuch/fairlead", "probe"],
    }
    missing = run_module("reachability", wanted, fails=True)
    assert "/nonesuch/fairlead" in missing["msg"] and "role fairlead.cluster.node brings the program" in missing["msg"]
    gone = run_module("reachability", {**wanted, "netns": "flt-nonesuch"}, fails=True)
    assert "/run/netns/flt-nonesuch" in gone["msg"] and "role" not in gone["msg"]


def test_program_is_usable_by_hand(path: RoutedPath) -> None:
    request = json.dumps({"targets": [{"name": "x", "address": OTHER, "port": PORT}]})
    done = path.pod.run([sys.executable, str(path.program), "run"], data=request)
    [result] = json.loads(done.stdout)["results"]
    assert result["seen_sources"] == [POD] and result["interface_mtu"] == result["peer_mtu"] == 1500
