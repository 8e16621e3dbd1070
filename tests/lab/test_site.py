# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A whole dual-stack cluster on lab nodes, in the order of its life: planned, built, repeated, limited, powered off,
reset. The molecule scenarios have clusters of IPv4 alone.

The tests share one lab and run in the order of the file: each leaves a converged cluster for the next.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cluster import Cluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.slow]

NODES = ("cp1", "cp2", "cp3", "w1")
POD = "t-pod"
#: Packets of three seconds.
AFTERWARDS = 30
# The VXLAN devices of both families, and the option of `ip` for what they carry.
DEVICES = {"flannel.1": "-4", "flannel-v6.1": "-6"}
# That of a node's interface, less the headers of VXLAN over IPv6.
POD_MTU = 1500 - 70
# Where anything of ours could lie on a node.
OURS = (
    "/opt/fairlead", "/etc/fairlead", "/var/lib/fairlead", "/etc/etcd", "/var/lib/etcd", "/run/flannel",
    "/etc/cni", "/var/lib/cni", "/etc/systemd/system", "/etc/systemd/network", "/etc/systemd/networkd.conf.d",
    "/etc/sysctl.d", "/etc/modules-load.d", "/etc/udev", "/etc/NetworkManager",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster("test-site", tmp_path_factory.mktemp("site")) as lab:
        yield lab


@pytest.fixture(scope="module")
def found(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What each node looked like before anything was done to it."""
    return {node: dump(cluster, node) for node in NODES}


def test_check_mode_on_fresh_nodes_succeeds_and_changes_nothing(
    cluster: Cluster, found: dict[str, dict[str, Any]]
) -> None:
    run = cluster.playbook("site", "--check", "--diff")
    assert run.total("changed") > 0, "fresh nodes need everything, so check mode must announce changes"
    assert {node: dump(cluster, node) for node in NODES} == found


def test_first_run_builds_the_network(cluster: Cluster, found: dict[str, dict[str, Any]]) -> None:
    cluster.playbook("site")
    leases = leases_in_etcd(cluster)
    assert sorted(lease["PublicIP"] for lease in leases.values()) == [f"192.0.2.{last}" for last in range(11, 15)]
    assert sorted(lease["PublicIPv6"] for lease in leases.values()) == [f"2001:db8:2::{last}" for last in range(11, 15)]
    for node in NODES:
        others = {key: lease for key, lease in leases.items() if lease["PublicIP"] != address(cluster, node)}
        halves = [
            {subnets[0]: (lease["PublicIP"], lease["BackendData"]["VtepMAC"]) for subnets, lease in others.items()},
            {subnets[1]: (lease["PublicIPv6"], lease["BackendV6Data"]["VtepMAC"]) for subnets, lease in others.items()},
        ]
        for (device, family), peers in zip(DEVICES.items(), halves, strict=True):
            assert_leads_to(cluster, node, device, family, peers)
        for switch in ("all", "default"):
            assert cluster.run(node, "sysctl", "-n", f"net.ipv6.conf.{switch}.forwarding").strip() == "1"


def assert_leads_to(cluster: Cluster, node: str, device: str, family: str, peers: dict[str, tuple[str, str]]) -> None:
    """The device has a route, a neighbor and a forwarding entry for each peer, and no other route.

    ``peers`` maps a subnet to the underlay address and the MAC address that lead to it.
    """
    shown = cluster.json(node, "ip", "-j", family, "route", "show", "dev", device)
    routes = {route["dst"]: route for route in shown if route.get("gateway")}
    assert set(routes) == set(peers), node
    entries = cluster.json(node, "bridge", "-j", "fdb", "show", "dev", device)
    forwarded = {(entry["mac"], entry.get("dst")) for entry in entries}
    for subnet, (underlay, mac) in peers.items():
        base = subnet.split("/")[0]
        assert routes[subnet]["gateway"] == base and "onlink" in routes[subnet]["flags"]
        [neighbour] = cluster.json(node, "ip", "-j", "neigh", "show", base, "dev", device)
        assert neighbour["lladdr"] == mac and neighbour["state"] == ["PERMANENT"]
        assert (mac, underlay) in forwarded


def test_second_run_changes_nothing(cluster: Cluster) -> None:
    run = cluster.playbook("site")
    assert run.total("changed") == 0, run.output


def test_check_mode_on_a_converged_cluster_announces_nothing(cluster: Cluster) -> None:
    run = cluster.playbook("site", "--check", "--diff")
    assert run.total("changed") == 0, run.output


def test_every_pair_of_nodes_talks_pod_to_pod_without_nat(cluster: Cluster) -> None:
    report = verified(cluster)
    for kind, among in {
        "pod-pod": set(itertools.permutations(NODES, 2)),
        "pod-node": set(itertools.product(NODES, NODES)),
        "node-pod": set(itertools.product(NODES, NODES)),
    }.items():
        for mark in ".:":
            of_family = [each for each in report["results"] if each["kind"] == kind and mark in each["address"]]
            assert {(each["source"], each["target"]) for each in of_family} == among, (kind, mark)
    pods = {(node["name"], key): node[key] for node in report["nodes"] for key in ("pod", "pod6")}
    for result in report["results"]:
        assert result["reachable"], result
        assert result["path_mtu"] == result["expected_mtu"], result
        if result["kind"] == "pod-pod":
            assert result["seen_source"] == pods[result["source"], "pod6" if ":" in result["address"] else "pod"], (
                result
            )
        if result["kind"] != "pod-node" or result["source"] != result["target"]:
            assert result["path_mtu"] == POD_MTU, result
    leaders = [member["name"] for member in report["etcd"] if member["leader"]]
    assert len(report["etcd"]) == 3 and len(leaders) == 1


def test_packets_between_pods_carry_the_pods_own_address(cluster: Cluster) -> None:
    """The same as the report says, but asked of ping between namespaces that the CNI plugins made."""
    with pods(cluster, "cp1", "w1") as addresses:
        # Less the headers of IP and ICMP.
        for target, size in zip(addresses["w1"], (POD_MTU - 28, POD_MTU - 48), strict=True):
            cluster.run("cp1", "ip", "netns", "exec", POD, "ping", "-c2", "-W2", "-M", "do", "-s", str(size), target)
            too_big = cluster.run("cp1", "ip", "netns", "exec", POD, "ping", "-c1", "-W2", "-M", "do", "-s",
                                  str(size + 1), target, expect=None)  # fmt: skip
            assert " 0 received" in too_big


def test_drift_is_announced_and_repaired(cluster: Cluster) -> None:
    for device in DEVICES:
        cluster.run("w1", "ip", "link", "del", device)
    announced = cluster.playbook("site", "--check", "--diff")
    assert announced.hosts["w1"]["changed"] == 1 and announced.total("changed") == 1, announced.output
    assert cluster.json("w1", "ip", "-j", "link", "show", "type", "vxlan") in ([], [{}], None)
    repaired = cluster.playbook("site", "--limit", "w1")
    assert repaired.hosts["w1"]["changed"] == 1
    assert verified(cluster)


def test_ipv6_is_taken_away_and_comes_back_while_ipv4_stays_as_it_is(cluster: Cluster) -> None:
    before = {node: ipv4_of(cluster, node) for node in NODES}
    leases = leases_in_etcd(cluster)
    with pods(cluster, "cp1", "w1") as addresses, pinging(cluster, "cp1", addresses["w1"][0]):
        cluster.playbook("site", "-e", "cluster_pod_cidr6=")
        assert set(leases_in_etcd(cluster)) == {subnets[:1] for subnets in leases}
        for node in NODES:
            assert "flannel-v6.1" not in cluster.run(node, "ip", "-o", "link")
            assert cluster.run(node, "sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "0"
        cluster.playbook("site")
        assert {subnets[0]: lease["BackendData"] for subnets, lease in leases_in_etcd(cluster).items()} == {
            subnets[0]: lease["BackendData"] for subnets, lease in leases.items()
        }
    assert {node: ipv4_of(cluster, node) for node in NODES} == before
    assert verified(cluster)


def test_a_limited_run_touches_only_that_node(cluster: Cluster) -> None:
    run = cluster.playbook("site", "--limit", "w1")
    assert set(run.hosts) - {"localhost"} == {"w1"}
    assert run.total("changed") == 0


def test_a_rebooted_node_comes_back_without_ansible(cluster: Cluster) -> None:
    cluster.lab("reboot", "cp2")
    assert_pods_talk(cluster, "cp2", "w1", within=60)


def test_a_powered_off_node_does_not_stop_the_others_and_comes_back(cluster: Cluster) -> None:
    cluster.lab("kill", "w1")
    run = cluster.playbook("site", expect=4)  # 4: Ansible's status when hosts were unreachable
    assert run.hosts["w1"]["unreachable"] == 1
    assert run.total("changed") == 0 and run.total("failures") == 0
    cluster.lab("up", "w1")
    assert_pods_talk(cluster, "w1", "cp1", within=60)
    assert cluster.playbook("site").total("changed") == 0


def test_reset_leaves_the_nodes_as_found(cluster: Cluster, found: dict[str, dict[str, Any]]) -> None:
    run = cluster.playbook("reset", "-e", "reset_confirmed=true")
    assert run.total("failures") == 0
    for node in NODES:
        assert dump(cluster, node) == found[node], node
    again = cluster.playbook("reset", "-e", "reset_confirmed=true")
    assert again.total("changed") == 0, again.output


def test_a_cluster_rises_again_from_interrupted_runs(cluster: Cluster) -> None:
    """The controller is killed in the middle of tasks spread over the whole playbook; then one run must finish."""
    for after_tasks in (8, 16, 22, 26, 30):
        cluster.interrupt("site", after_tasks)
        assert cluster.playbooks() == [], "something of the killed playbook goes on"
    cluster.playbook("site")
    assert cluster.playbook("site").total("changed") == 0
    assert verified(cluster)


def address(cluster: Cluster, node: str) -> str:
    [link] = cluster.json(node, "ip", "-j", "-4", "address", "show", "dev", "eth0")
    return str(link["addr_info"][0]["local"])


def ipv4_of(cluster: Cluster, node: str) -> list[str]:
    """The device and the routes that IPv4 goes by."""
    link = cluster.run(node, "ip", "-o", "-d", "link", "show", "flannel.1").split("mtu")[0]
    return [link, *cluster.run(node, "ip", "-4", "route", "show", "dev", "flannel.1").splitlines()]


def answered(cluster: Cluster, node: str, log: str) -> list[int]:
    """Numbers of the packets that ping had an answer to, of which there may be two, or late ones."""
    said = cluster.run(node, "cat", log)
    return sorted({int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", said)})


@contextlib.contextmanager
def pinging(cluster: Cluster, node: str, target: str) -> Iterator[None]:
    """A ping from the node's pod each tenth of a second, of which none may be lost."""
    log = "/tmp/t-pinging"
    command = f"exec ip netns exec {POD} ping -i 0.1 -W 2 {target} >{log} 2>&1"
    cluster.run(node, "systemd-run", "--quiet", "--unit=t-pinging", "--service-type=exec", "sh", "-c", command)
    try:
        yield
        # Those that were on their way at the end are answered or not, and later ones have to be.
        end = len(answered(cluster, node, log)) + AFTERWARDS
        wait_until(lambda: len(answered(cluster, node, log)) >= end, "packets are answered afterwards too")
        numbers = answered(cluster, node, log)
        assert numbers == list(range(1, len(numbers) + 1)), cluster.run(node, "cat", log)
    finally:
        cluster.run(node, "sh", "-c", f"systemctl stop t-pinging; rm -f {log}", expect=None)


def leases_in_etcd(cluster: Cluster) -> dict[tuple[str, ...], Any]:
    """Lease values by subnets (IPv4, then IPv6), read with etcd's own client."""
    pki = "/etc/fairlead/pki"
    output = cluster.run(
        "cp1", "env", "ETCDCTL_API=3", "etcdctl", "--endpoints=https://192.0.2.12:2379", f"--cacert={pki}/etcd-ca.crt",
        f"--cert={pki}/etcd-client.crt", f"--key={pki}/etcd-client.key", "get", "--prefix",
        "/coreos.com/network/subnets/",
    )  # fmt: skip
    lines = output.split()
    assert all(key.startswith("/coreos.com/network/subnets/") for key in lines[::2])
    return {
        tuple(key.rsplit("/", 1)[1].replace("-", "/").split("&")): json.loads(value)
        for key, value in zip(lines[::2], lines[1::2], strict=True)
    }


def verified(cluster: Cluster) -> dict[str, Any]:
    report = cluster.directory / "verify.json"
    cluster.playbook("verify", "-e", f"verify_report={report}")
    document: dict[str, Any] = json.loads(report.read_text())
    return document


@contextlib.contextmanager
def pods(cluster: Cluster, *nodes: str) -> Iterator[dict[str, list[str]]]:
    """A pod on each node, attached as a container runtime would: a namespace, and ADD through the CNI plugins. Gives
    the IPv4 and the IPv6 address of each."""
    try:
        for node in nodes:
            attach(cluster, node, "present")
        yield {node: pod_addresses(cluster, node) for node in nodes}
    finally:
        for node in nodes:
            attach(cluster, node, "absent")


def attach(cluster: Cluster, node: str, state: str) -> None:
    cluster.module(node, "cni_attachment", {"container_id": POD, "netns": POD, "network": "fairlead", "state": state})


def pod_addresses(cluster: Cluster, node: str) -> list[str]:
    [link] = cluster.json(node, "ip", "-n", POD, "-j", "address", "show", "dev", "eth0")
    found = {entry["family"]: str(entry["local"]) for entry in link["addr_info"] if entry["scope"] == "global"}
    return [found["inet"], found["inet6"]]


def assert_pods_talk(cluster: Cluster, one: str, other: str, within: float) -> None:
    """New pods on both nodes reach each other within so many seconds for each IP version; nothing is provisioned in
    between."""

    def answers(address: str) -> bool:
        return " 1 received" in cluster.run(one, *inside, "ping", "-c1", "-W1", address, expect=None)

    inside = ("ip", "netns", "exec", POD)
    with pods(cluster, one, other) as addresses:
        for address in addresses[other]:
            wait_until(functools.partial(answers, address), f"{one} reaches {other} at {address}", within)


def dump(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a node's network and the files and services that are ours look like, in a form that can be compared."""
    links = cluster.json(node, "ip", "-j", "-d", "link")
    return {
        "links": sorted((link["ifname"], link["mtu"], link["operstate"]) for link in links),
        # The kernel looks for duplicates of a new IPv6 address for a second or two.
        "addresses": cluster.run(node, "ip", "-o", "address", "show", "scope", "global")
        .replace("tentative", "")
        .split(),
        "routes": [
            cluster.run(node, "ip", family, "route", "show", "table", "all", "type", "unicast").splitlines()
            for family in ("-4", "-6")
        ],
        "nft": cluster.run(node, "sh", "-c", "nft list ruleset 2>/dev/null; true").splitlines(),
        "sysctl": cluster.run(node, "sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding").split(),
        "files": cluster.run(node, "find", *OURS, "-not", "-type", "d", expect=None).splitlines(),
        "units": cluster.run(
            node, "sh", "-c", "systemctl list-units --all --plain --no-legend 'fairlead*' etcd.service"
        ).splitlines(),
    }
