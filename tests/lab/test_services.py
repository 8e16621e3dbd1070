# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services on the nodes of a lab, by playbooks alone: made, repeated, used, drained and taken off again.

The tests share one lab and run in the order of the file. Kernels of its nodes have IPVS, and no nftables with NAT.
"""

from __future__ import annotations

import collections
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import pytest

from lab import state
from tests.lab.cluster import TOP, Cluster
from tests.lab.test_site import dump
from tests.manifests import endpoint_slice, service
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.slow]

EXAMPLES = TOP / "examples/services"
NODES = ("cp1", "w1")
#: Addresses of cp1 to nodes and to its pod, and of the lab's gateway, which is outside of the cluster.
CP1, OUTSIDE = "192.0.2.11", "192.0.2.1"
ADDRESSES = {"cp1": CP1, "w1": "192.0.2.14"}
CLUSTER_IP, CLUSTER_IP6, EXTERNAL_IP, BALANCER = "10.96.0.80", "[fd00:10:96::80]", "198.51.100.80", "203.0.113.80"
#: Of the service with policy Local, and of one with session affinity and two protocols.
LOCAL_CLUSTER_IP, LOCAL_BALANCER, STICKY = "10.96.0.81", "203.0.113.81", "10.96.0.82"
NODE_PORT, LOCAL_NODE_PORT, HEALTH_CHECK_PORT = 30080, 30081, 30082
# Asks each URL COUNT times, with 0 until standard input ends, and prints the first line of each answer, or what went
# wrong. Python is on every node, curl is not.
CLIENT = """
import select, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for url, count in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    asked = 0
    while asked < count or count == 0 and not select.select([sys.stdin], [], [], 0.02)[0]:
        asked += 1
        try:
            print(url, opener.open(url, timeout=10).read().decode().split(chr(10))[0], flush=True)
        except OSError as error:
            print(url, 'FAILED', error, flush=True)
"""
# The same by datagrams, from and to port 8080 of pods.
DATAGRAMS = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('', 8080))
while True:
    client = server.recvfrom(99)[1]
    server.sendto(f'{sys.argv[1]} {client[0]}'.encode(), client)
"""
SENDER = """
import socket, sys
for number in range(4):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(b'?', (sys.argv[1], int(sys.argv[2])))
        print(client.recv(99).decode())
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("services")
    with Cluster("test-services", directory, "tests/inventories/services", kind="uml") as lab:
        install = ("sh", "-c", "apt-get -qq update && apt-get -qq -y install ipvsadm")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: lab.run(node, *install), NODES))
        yield lab


def test_services_are_made_once(cluster: Cluster) -> None:
    found = {node: everything(cluster, node) for node in NODES}
    (cluster.directory / "found.json").write_text(json.dumps(found))
    cluster.playbook("site")
    pods(cluster, "present")
    made = services(cluster)
    assert all(made.hosts[node]["changed"] for node in NODES)
    assert services(cluster).total("changed") == 0
    for node in NODES:
        table = cluster.run(node, "cat", "/proc/net/ip_vs")
        # 10.96.0.80:80, and cp1's node port 30080.
        assert "TCP  0A600050:0050 rr" in table
        assert ("TCP  C000020B:7580 rr" in table) == (node == "cp1")


def test_pods_nodes_and_outsiders_are_answered_by_all_endpoints(cluster: Cluster) -> None:
    cluster_ips = [f"http://{each}/" for each in (CLUSTER_IP, CLUSTER_IP6)]
    outside = [f"http://{CP1}:{NODE_PORT}/", f"http://{EXTERNAL_IP}/", f"http://{BALANCER}/"]
    command = ["ip", "-n", state.load(cluster.name).netns, "route", "replace"]
    for address in (EXTERNAL_IP, BALANCER, LOCAL_BALANCER):
        subprocess.run([*command, f"{address}/32", "via", CP1], check=True)
    answered = ask(on(cluster, "cp1", pod=True), cluster_ips)
    answered.update(ask(on(cluster, "w1"), [*cluster_ips, outside[0]]))
    answered.update({f"outside {url}": answers for url, answers in ask(outsider(cluster), outside).items()})
    for url, answers in answered.items():
        assert sorted(answer.split(" ")[0] for answer in answers) == ["cp1", "cp1", "w1", "w1"], (url, answers)


def test_with_policy_local_endpoints_of_the_node_see_the_client(cluster: Cluster) -> None:
    urls = [f"http://{CP1}:{LOCAL_NODE_PORT}/", f"http://{LOCAL_BALANCER}/"]
    assert ask(outsider(cluster), urls) == dict.fromkeys(urls, [f"cp1 {OUTSIDE}"] * 4)
    assert healthy(cluster) == {"cp1", "w1"}


def test_client_stays_with_an_endpoint_and_datagrams_are_balanced_too(cluster: Cluster) -> None:
    url = f"http://{STICKY}/"
    pod, node = (ask(on(cluster, "cp1", pod=inside), [url])[url] for inside in (True, False))
    assert len(set(pod)) == len(set(node)) == 1 and {pod[0].split(" ")[0], node[0].split(" ")[0]} <= set(NODES)
    for name in NODES:
        answer_datagrams(cluster, name)
    answers = cluster.run("w1", "python3", "-c", SENDER, STICKY, "53").splitlines()
    assert len(answers) == 4 and len(set(answers)) == 1 and answers[0].split(" ")[0] in NODES


def test_kernel_has_what_the_services_say_and_nothing_else(cluster: Cluster) -> None:
    for node in NODES:
        assert sorted(cluster.run(node, "ipvsadm-save", "-n").splitlines()) == sorted(saved(cluster, node)), node


def test_an_endpoint_is_drained_without_a_failed_request(cluster: Cluster) -> None:
    """Downloads last through the run that takes their endpoint away, and new requests go elsewhere."""
    url = f"http://{CP1}:{NODE_PORT}/"
    commands = [[*outsider(cluster), f"{url}download?30", "1"] for _download in range(4)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    downloads = [subprocess.Popen(command, **pipes, text=True) for command in commands]
    started = list(downloads)
    try:
        wait_until(lambda: sorted(downloaded_from(cluster).values()) == [2, 2], "each endpoint has two downloads")
        load = subprocess.Popen([*outsider(cluster), url, "0"], **{**pipes, "stdin": subprocess.PIPE}, text=True)
        started.append(load)
        assert load.stdout is not None and url in load.stdout.readline()
        services(cluster, without="w1")
        during = load.communicate(timeout=300)[0].splitlines()
        ended = [download.communicate(timeout=300)[0] for download in downloads]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert len(during) > 10 and not [line for line in during if "FAILED" in line]
    assert {line.split(" ")[1] for line in ended} == {"cp1", "w1"}
    assert {answer.split(" ")[0] for answer in ask(outsider(cluster), [url])[url]} == {"cp1"}
    wait_until(lambda: healthy(cluster) == {"cp1"}, "load balancers want the node with an endpoint alone")


def test_reset_leaves_the_nodes_as_found(cluster: Cluster) -> None:
    """With virtual services that were declared by hand."""
    pods(cluster, "absent")
    found = json.loads((cluster.directory / "found.json").read_text())
    by_hand = {"protocol": "tcp", "address": "198.51.100.90", "port": 80, "servers": [{"address": "10.244.9.9"}]}
    cluster.module("w1", "ipvs_service", {"services": [by_hand], "device": "by-hand", "timeouts": {"tcp": 1000}})
    assert "198.51.100.90/32" in cluster.run("w1", "ip", "-o", "address", "show", "dev", "by-hand")
    cluster.playbook("reset", "-e", "reset_confirmed=true")
    for node in NODES:
        assert json.loads(json.dumps(everything(cluster, node))) == found[node], node
    assert "900 120 300" in cluster.run("w1", "ipvsadm", "-Ln", "--timeout")
    for url in health_checks():
        assert all("refused" in answer for answer in ask(outsider(cluster), [url])[url])


def downloaded_from(cluster: Cluster) -> collections.Counter[str]:
    """How many connections to cp1's node port each endpoint has."""
    lines = [line.split() for line in cluster.run("cp1", "ipvsadm", "-Lcn").splitlines()]
    ours = [line for line in lines if line[2:3] == ["ESTABLISHED"] and line[4] == f"{CP1}:{NODE_PORT}"]
    return collections.Counter(line[5] for line in ours)


def answer_datagrams(cluster: Cluster, node: str) -> None:
    inside = ("ip", "netns", "exec", "web-example")
    cluster.run(node, "systemd-run", "-q", "--unit=datagrams", *inside, "python3", "-c", DATAGRAMS, node)
    # One that comes before the socket is there is lost.
    bound = (*inside, "ss", "-ulnH", "sport = :8080")
    wait_until(lambda: cluster.run(node, *bound), f"the pod of {node} has a socket for datagrams", every=0.5)


def pods(cluster: Cluster, wanted: str) -> None:
    variables = {"pods_file": str(cluster.directory / "pods.json"), "pods_state": wanted}
    cluster.playbook("../examples/services/pods", "-e", json.dumps(variables))


def saved(cluster: Cluster, node: str) -> Iterator[str]:
    """Lines that ipvsadm has to print: each service with its endpoints. Node ports are at all addresses of the node."""
    pods = [(pod["node"], each) for pod in listed_pods(cluster) for each in pod["addresses"]]
    links = json.loads(cluster.run(node, "ip", "-j", "address", "show", "up"))
    infos = [info for link in links if link.get("ifname") != "lo" for info in link.get("addr_info", [])]
    own = [info["local"] for info in infos if info["scope"] == "global"]
    assert ADDRESSES[node] in own and any(":" in each for each in own)
    own4 = [each for each in own if ":" not in each]
    for places, port, words, local in (
        ([CLUSTER_IP, CLUSTER_IP6.strip("[]"), EXTERNAL_IP, BALANCER], 80, "-t {} -s rr", False),
        (own, NODE_PORT, "-t {} -s rr", False),
        ([LOCAL_CLUSTER_IP], 80, "-t {} -s rr", False),
        ([LOCAL_BALANCER], 80, "-t {} -s rr", True),
        (own4, LOCAL_NODE_PORT, "-t {} -s rr", True),
        ([STICKY], 80, "-t {} -s rr -p 10800", False),
        ([STICKY], 53, "-u {} -s rr -p 10800", False),
    ):
        for place in places:
            service = words.format(at(place, port))
            yield f"-A {service}"
            for where, pod in pods:
                if (":" in pod) == (":" in place) and where in ([node] if local else NODES):
                    yield f"-a {' '.join(service.split(' ')[:2])} -r {at(pod, 8080)} -m -w 1"


def at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def listed_pods(cluster: Cluster) -> Any:
    return json.loads((cluster.directory / "pods.json").read_text())


def sticky(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ports = [
        {"name": name, "protocol": protocol, "port": port}
        for name, protocol, port in (("http", "TCP", 80), ("dns", "UDP", 53))
    ]
    endpoints = [
        {"addresses": [each], "nodeName": pod["node"]} for pod in pods for each in pod["addresses"] if ":" not in each
    ]
    targets = [{**port, "port": 8080} for port in ports]
    made = service("sticky", clusterIP=STICKY, sessionAffinity="ClientIP", ports=ports)
    return [made, endpoint_slice(*endpoints, of="sticky", ports=targets)]


def services(cluster: Cluster, without: str = "") -> Any:
    """``without`` is a node whose pod is to be no endpoint any more."""
    pods = [pod for pod in listed_pods(cluster) if pod["node"] != without]
    template = jinja2.Template((EXAMPLES / "endpoints.yml.j2").read_text())
    endpoints = cluster.directory / "endpoints.yml"
    endpoints.write_text(template.render(pods=pods))
    files = [str(EXAMPLES / "web.yml"), str(endpoints)]
    variables = {"services_files": files, "services_objects": sticky(pods), "services_drain_seconds": 60}
    return cluster.playbook("services", "-e", json.dumps(variables))


def health_checks() -> dict[str, str]:
    """Nodes by where load balancers ask them for endpoints of the service with policy local."""
    return {f"http://{address}:{HEALTH_CHECK_PORT}/healthz": node for node, address in ADDRESSES.items()}


def healthy(cluster: Cluster) -> set[str]:
    """Nodes that want what load balancers have."""
    nodes = health_checks()
    answered = ask(outsider(cluster), list(nodes))
    assert all("localEndpoints" in each or "503" in each for answers in answered.values() for each in answers)
    return {nodes[url] for url, answers in answered.items() if "503" not in answers[0]}


def on(cluster: Cluster, node: str, pod: bool = False) -> list[str]:
    inside = ["ip", "netns", "exec", "web-example"] if pod else []
    config = str(Path(TOP, "build/lab", cluster.name, "ssh_config"))
    # Ansible's connection, which it may be closing, is not shared.
    return ["ssh", "-F", config, "-o", "ControlPath=none", node, *map(shlex.quote, [*inside, "python3", "-c", CLIENT])]


def outsider(cluster: Cluster) -> list[str]:
    return ["ip", "netns", "exec", state.load(cluster.name).netns, sys.executable, "-c", CLIENT]


def ask(command: list[str], urls: list[str], times: int = 4) -> dict[str, list[str]]:
    """Answers "POD CLIENT" of each URL."""
    words = [word for url in urls for word in (url, str(times))]
    done = subprocess.run(
        [*command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command[0]}: {done.returncode} {done.stderr}"
    answers: dict[str, list[str]] = {url: [] for url in urls}
    for line in done.stdout.splitlines():
        url, _space, answer = line.partition(" ")
        answers[url].append(answer)
    return answers


def everything(cluster: Cluster, node: str) -> dict[str, Any]:
    """What there is on a node, with all that services are made of."""
    script = (
        "cat /proc/net/ip_vs /proc/net/ip_vs_conn 2>/dev/null | tail -n +4 | grep -v '^Pro';"
        " ipset save 2>/dev/null; for save in iptables-legacy-save ip6tables-legacy-save; do"
        " $save 2>/dev/null | grep -v -e '^[#*:]' -e COMMIT; done; true"
    )
    return {**dump(cluster, node), "services": cluster.run(node, "sh", "-c", script).splitlines()}
