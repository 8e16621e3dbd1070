# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A whole cluster on lab nodes, in the order of its life: planned, built, repeated, limited, powered off, reset.

The tests share one lab and run in the order of the file: each leaves a converged cluster for the next.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.slow]

NODES = ("cp1", "cp2", "cp3", "w1")
POD = "t-pod"
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
    for node in NODES:
        routes = {route["dst"]: route for route in cluster.json(node, "ip", "-j", "route", "show", "dev", "flannel.1")}
        others = {key: lease for key, lease in leases.items() if lease["PublicIP"] != address(cluster, node)}
        assert set(routes) == set(others), node
        for subnet, lease in others.items():
            base = subnet.split("/")[0]
            assert routes[subnet]["gateway"] == base and "onlink" in routes[subnet]["flags"]
            neighbour = cluster.json(node, "ip", "-j", "neigh", "show", base, "dev", "flannel.1")[0]
            assert neighbour["lladdr"] == lease["BackendData"]["VtepMAC"] and neighbour["state"] == ["PERMANENT"]
            entries = cluster.json(node, "bridge", "-j", "fdb", "show", "dev", "flannel.1")
            assert (neighbour["lladdr"], lease["PublicIP"]) in {(entry["mac"], entry.get("dst")) for entry in entries}


def test_second_run_changes_nothing(cluster: Cluster) -> None:
    run = cluster.playbook("site")
    assert run.total("changed") == 0, run.output


def test_check_mode_on_a_converged_cluster_announces_nothing(cluster: Cluster) -> None:
    run = cluster.playbook("site", "--check", "--diff")
    assert run.total("changed") == 0, run.output


def test_every_pair_of_nodes_talks_pod_to_pod_without_nat(cluster: Cluster) -> None:
    report = verified(cluster)
    pairs = {(result["source"], result["target"]) for result in report["results"] if result["kind"] == "pod-pod"}
    assert pairs == set(itertools.permutations(NODES, 2))
    pods = {node["name"]: node["pod"] for node in report["nodes"]}
    for result in report["results"]:
        assert result["reachable"], result
        assert result["path_mtu"] == result["expected_mtu"], result
        if result["kind"] == "pod-pod":
            assert result["seen_source"] == pods[result["source"]], result
    leaders = [member["name"] for member in report["etcd"] if member["leader"]]
    assert len(report["etcd"]) == 3 and len(leaders) == 1


def test_packets_between_pods_carry_the_pods_own_address(cluster: Cluster) -> None:
    """The same as the report says, but asked of ping between namespaces that the CNI plugins made."""
    with pods(cluster, "cp1", "w1") as addresses:
        size = 1450 - 28  # the device's MTU less the headers of IPv4 and ICMP
        cluster.run("cp1", "ip", "netns", "exec", POD, "ping", "-c2", "-W2", "-M", "do", "-s", str(size),
                    addresses["w1"])  # fmt: skip
        too_big = cluster.run("cp1", "ip", "netns", "exec", POD, "ping", "-c1", "-W2", "-M", "do", "-s",
                              str(size + 1), addresses["w1"], expect=None)  # fmt: skip
        assert " 0 received" in too_big


def test_drift_is_announced_and_repaired(cluster: Cluster) -> None:
    cluster.run("w1", "ip", "link", "del", "flannel.1")
    announced = cluster.playbook("site", "--check", "--diff")
    assert announced.hosts["w1"]["changed"] == 1 and announced.total("changed") == 1, announced.output
    assert cluster.json("w1", "ip", "-j", "link", "show", "type", "vxlan") in ([], [{}], None)
    repaired = cluster.playbook("site", "--limit", "w1")
    assert repaired.hosts["w1"]["changed"] == 1
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


def leases_in_etcd(cluster: Cluster) -> dict[str, Any]:
    """Lease values by subnet, read with etcd's own client."""
    pki = "/etc/fairlead/pki"
    output = cluster.run(
        "cp1", "env", "ETCDCTL_API=3", "etcdctl", "--endpoints=https://192.0.2.12:2379", f"--cacert={pki}/etcd-ca.crt",
        f"--cert={pki}/etcd-client.crt", f"--key={pki}/etcd-client.key", "get", "--prefix",
        "/coreos.com/network/subnets/",
    )  # fmt: skip
    lines = output.split()
    assert all(key.startswith("/coreos.com/network/subnets/") for key in lines[::2])
    return {
        key.rsplit("/", 1)[1].replace("-", "/"): json.loads(value)
        for key, value in zip(lines[::2], lines[1::2], strict=True)
    }


def verified(cluster: Cluster) -> dict[str, Any]:
    report = cluster.directory / "verify.json"
    cluster.playbook("verify", "-e", f"verify_report={report}")
    document: dict[str, Any] = json.loads(report.read_text())
    return document


@contextlib.contextmanager
def pods(cluster: Cluster, *nodes: str) -> Iterator[dict[str, str]]:
    """A pod on each node, attached as a container runtime would: a namespace, and ADD through the CNI plugins."""
    try:
        for node in nodes:
            attach(cluster, node, "present")
        yield {node: pod_address(cluster, node) for node in nodes}
    finally:
        for node in nodes:
            attach(cluster, node, "absent")


def attach(cluster: Cluster, node: str, state: str) -> None:
    cluster.module(node, "cni_attachment", {"container_id": POD, "netns": POD, "network": "fairlead", "state": state})


def pod_address(cluster: Cluster, node: str) -> str:
    [link] = cluster.json(node, "ip", "-n", POD, "-j", "-4", "address", "show", "dev", "eth0")
    return str(link["addr_info"][0]["local"])


def assert_pods_talk(cluster: Cluster, one: str, other: str, within: float) -> None:
    """New pods on both nodes reach each other within so many seconds; nothing is provisioned in between."""
    until = time.monotonic() + within
    with pods(cluster, one, other) as addresses:
        while True:
            answer = cluster.run(one, "ip", "netns", "exec", POD, "ping", "-c1", "-W1", addresses[other], expect=None)
            if " 1 received" in answer:
                return
            assert time.monotonic() < until, f"{one} does not reach {other}: {answer}"


def dump(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a node's network and the files and services that are ours look like, in a form that can be compared."""
    links = cluster.json(node, "ip", "-j", "-d", "link")
    return {
        "links": sorted((link["ifname"], link["mtu"], link["operstate"]) for link in links),
        "addresses": cluster.run(node, "ip", "-4", "-o", "address", "show", "scope", "global").split(),
        "routes": cluster.run(node, "ip", "route", "show", "table", "all", "type", "unicast").splitlines(),
        "nft": cluster.run(node, "sh", "-c", "nft list ruleset 2>/dev/null; true").splitlines(),
        "sysctl": cluster.run(node, "sysctl", "net.ipv4.ip_forward").split(),
        "files": cluster.run(node, "find", *OURS, "-not", "-type", "d", expect=None).splitlines(),
        "units": cluster.run(
            node, "sh", "-c", "systemctl list-units --all --plain --no-legend 'fairlead*' etcd.service"
        ).splitlines(),
    }
