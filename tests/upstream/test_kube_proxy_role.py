# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Role kube_proxy on real nodes against a real API server: a node in a container in mode nftables, and one with a
kernel of its own in modes ipvs and iptables. The tests of a node share it and run in the order of the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernel.namespaces import Namespace
from tests.lab.cluster import TOP, Cluster, Run
from tests.lab.test_services import CLIENT
from tests.upstream import builds, kubernetes_api
from tests.upstream.conftest import Programs
from tests.upstream.lan import end
from tests.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.slow]

NODE, GATEWAY, VERSION = "k1", "192.0.2.1", builds.KUBERNETES_VERSION.removeprefix("v")
CLUSTER_IP, NODE_PORT, PORT = "10.96.0.80", 30080, 8080
# Of a service whose only endpoint is where its clients are. It is reached by who is masqueraded and nobody else.
FAR_CLUSTER_IP, FAR_NODE_PORT, FAR_PORT = "10.96.0.81", 30081, 8090
API_CA = "/etc/fairlead/api-ca.crt"
UNIT, FILES = "/etc/systemd/system/kube-proxy.service", "/etc/fairlead/kube-proxy"
# Somebody else's: in our own range, and by name alike.
FOREIGN = "198.18.7.1:80"


FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"
# A kernel with one processor, on which kube-proxy programs everything, answers late when the machine is busy.
PATIENT = CLIENT.replace("timeout=10", "timeout=60")


class LabNamespace(Namespace):
    """The one that a lab has its LAN in. It is the lab's to make and to remove."""

    def __init__(self, name: str) -> None:
        self.name = name

    def remove(self) -> None:
        return


class Site:
    """A lab of one node, with kube-proxy's archive on its mirror and an API server on its LAN."""

    def __init__(self, cluster: Cluster, address: str, kubernetes: Path) -> None:
        self.cluster, self.address = cluster, address
        self.namespace = LabNamespace(f"fl-{cluster.name}")
        self.variables: dict[str, Any] = {"kube_proxy_archive_sha256": {"amd64": self._archive(kubernetes)}}

    def _archive(self, kubernetes: Path) -> str:
        """In the form of a release, which has more programs in it."""
        path = (
            TOP / "build" / "lab" / self.cluster.name / "files" / f"v{VERSION}" / "kubernetes-node-linux-amd64.tar.gz"
        )
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w:gz", compresslevel=1) as made:
            made.add(kubernetes / "kube-proxy", "kubernetes/node/bin/kube-proxy")
            made.add(TOP / "README.md", "kubernetes/node/bin/kubelet")
            made.add(TOP / "LICENSE", "kubernetes/LICENSES")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def play(self, playbook: str, *arguments: str, expect: int = 0, **variables: Any) -> Run:
        given = json.dumps({**self.variables, **variables})
        return self.cluster.playbook(playbook, "-e", given, *arguments, expect=expect)

    def shell(self, script: str, expect: int | None = 0) -> str:
        return self.cluster.run(NODE, "sh", "-c", script, expect=expect)

    def prepare(self) -> str:
        """What comes before kube-proxy in site.yml, and a server behind the service. Gives the clients' authority."""
        self.play("node")
        self.play("pki")
        self.shell("mkdir -p /srv/t-web; echo answered >/srv/t-web/index.html")
        self.shell(f"systemd-run -q --unit=t-web -p WorkingDirectory=/srv/t-web python3 -m http.server {PORT}")
        return self.shell("cat /etc/fairlead/pki/kubernetes-ca.crt")

    @contextlib.contextmanager
    def far_server(self, directory: Path) -> Iterator[None]:
        (directory / "far").mkdir()
        (directory / "far" / "index.html").write_text("answered\n")
        command = [sys.executable, "-m", "http.server", str(FAR_PORT), "--bind", GATEWAY, "-d", str(directory / "far")]
        process = self.namespace.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            end(process)

    def assert_serves(self) -> None:
        """A service's own address from the node, and ports of the node from outside: as soon as the role is done."""
        inside = self.cluster.run(NODE, "python3", "-c", FETCH, f"http://{CLUSTER_IP}/", expect=None)
        assert "answered" in inside, inside
        for port in (NODE_PORT, FAR_NODE_PORT):
            outside = self.namespace.run(["python3", "-c", FETCH, f"http://{self.address}:{port}/"], check=False)
            assert "answered" in outside.stdout, outside.stderr

    @contextlib.contextmanager
    def clients(self) -> Iterator[None]:
        """One after the other from outside, at each of the ports: none of them notices what happens in the block."""
        processes = [
            self.namespace.start(
                [sys.executable, "-c", PATIENT, f"http://{self.address}:{port}/", "0"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for port in (NODE_PORT, FAR_NODE_PORT)
        ]
        try:
            yield
            said = [process.communicate(timeout=600)[0].splitlines() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        for answers in said:
            assert len(answers) > 10 and [each for each in answers if not each.endswith(" answered")] == []

    def state(self) -> str:
        return self.shell(f"sha256sum {UNIT} {FILES}/*; find /opt/kube-proxy; systemctl is-active kube-proxy")


def objects(address: str) -> Iterator[dict[str, Any]]:
    addresses = [{"type": "InternalIP", "address": address}]
    yield {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": addresses}}
    yield from service("web", CLUSTER_IP, NODE_PORT, address, PORT, nodeName=NODE)
    yield from service("far", FAR_CLUSTER_IP, FAR_NODE_PORT, GATEWAY, FAR_PORT)


def service(
    name: str, cluster_ip: str, node_port: int, endpoint: str, port: int, **more: str
) -> Iterator[dict[str, Any]]:
    ports = [{"port": 80, "targetPort": port, "nodePort": node_port}]
    spec = {"type": "NodePort", "clusterIP": cluster_ip, "ports": ports}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint], "conditions": {"ready": True}, **more}],
    }


@contextlib.contextmanager
def site(
    purpose: str, kind: str, address: str, directory: Path, programs: Programs, **variables: Any
) -> Iterator[Site]:
    shared = yaml.safe_load((TOP / "inventories" / "lab" / "group_vars" / "all" / "lab.yml").read_text())
    given = {key: value for key, value in shared.items() if not key.startswith("ansible_ssh")}
    given |= {"cluster_name": "lab", "ansible_user": "root", "reset_confirmed": True}
    given |= {"cluster_pod_cidr": "10.244.0.0/16", "cluster_service_cidr": "10.96.0.0/12"}
    given |= {"cluster_kube_proxy": True, "cluster_api_server": f"https://{GATEWAY}:6443", "kube_proxy_ca_file": API_CA}
    given |= {"kube_proxy_version": VERSION, "kube_proxy_archive_mirror": f"http://{GATEWAY}/files"}
    # In a container the limit is the host's.
    given |= {"kube_proxy_conntrack_max_per_core": 0, "kube_proxy_conntrack_min": 0, **variables}
    hosts = {NODE: {"ansible_host": address}}
    groups = {"etcd": {"hosts": hosts}, "control_plane": {"hosts": hosts}}
    groups["nodes"] = {"children": {"control_plane": {}, "worker": {}}}
    inventory = directory / "inventory"
    inventory.mkdir()
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": given, "children": groups}}))
    kubernetes, etcd = programs(builds.KUBERNETES), programs(builds.etcd("3.6"))
    with Cluster(purpose, directory, str(inventory), kind) as lab:
        made = Site(lab, address, kubernetes)
        (directory / "clients.crt").write_text(made.prepare())
        with (
            made.far_server(directory),
            kubernetes_api.running(
                made.namespace,
                directory / "api",
                (kubernetes, etcd),
                GATEWAY,
                "10.96.0.0/12",
                directory / "clients.crt",
            ) as api,
        ):
            for each in objects(address):
                api.create(each)
            made.cluster.run(NODE, "sh", "-c", f"cat >{API_CA} <<'EOF'\n{api.authority.read_text()}\nEOF")
            yield made


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Site]:
    with site("kp", "container", "192.0.2.41", tmp_path_factory.mktemp("nft"), programs) as made:
        yield made


@pytest.fixture(scope="module")
def own_kernel(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Site]:
    variables = {"kube_proxy_mode": "ipvs", "kube_proxy_wait": 180, "cluster_virtual_cidrs": ["198.18.7.0/24"]}
    with site("kpu", "uml", "192.0.2.42", tmp_path_factory.mktemp("ipvs"), programs, **variables) as made:
        # Its kernel has no nftables for what iptables does.
        for command in ("iptables", "ip6tables"):
            made.shell(f"update-alternatives --set {command} /usr/sbin/{command}-legacy")
        made.cluster.run(NODE, "apt-get", "-qq", "-y", "install", "ipvsadm")
        made.shell(f"modprobe ip_vs; ipvsadm -A -t {FOREIGN} -s rr; ipvsadm -a -t {FOREIGN} -r 10.1.1.1:80 -m")
        made.shell("ipset create T-SET hash:ip; iptables -N KUBE-ROUTER-T; iptables -A KUBE-ROUTER-T -j RETURN")
        made.shell("iptables -t nat -A POSTROUTING -s 203.0.113.9 -j MASQUERADE")
        yield made


def test_nftables_serves_after_one_run_and_the_second_changes_nothing(container: Site) -> None:
    assert container.play("kube_proxy", "--check", "--diff").total("changed") == 1
    assert container.shell(f"ls {UNIT} /opt/kube-proxy 2>/dev/null; true") == ""
    container.play("kube_proxy")
    container.assert_serves()
    assert "table ip kube-proxy" in container.shell("nft list tables")
    assert container.shell(f"stat -c %a {FILES}/kubeconfig /etc/fairlead/pki/kube-proxy.key").split() == ["600", "600"]
    assert container.play("kube_proxy").total("changed") == 0
    assert container.play("kube_proxy", "--check", "--diff").total("changed") == 0


def test_configuration_that_does_not_work_is_taken_back(container: Site) -> None:
    """Here the limit of connections cannot be set, and kube-proxy ends."""
    before = container.state()
    run = container.play("kube_proxy", expect=2, kube_proxy_conntrack_max_per_core=1000, kube_proxy_wait=30)
    assert "so all is as before" in run.output and "nf_conntrack_max: permission denied" in run.output
    assert container.state() == before
    container.assert_serves()
    assert container.play("kube_proxy").total("changed") == 0


def test_mode_that_the_kernel_does_not_have_is_refused_with_nothing_changed(container: Site) -> None:
    if container.shell("modprobe ip_vs 2>/dev/null && echo there; true"):
        pytest.skip("this machine's kernel has IPVS")
    before = container.state()
    run = container.play("kube_proxy", expect=2, kube_proxy_mode="ipvs")
    assert "kernel module" in run.output and "deprecated since Kubernetes 1.35" in run.output
    assert container.state() == before


def test_container_changes_to_iptables_and_back(container: Site) -> None:
    before, tables = container.state(), container.shell("nft list tables")
    announced = container.play("switch_proxy_mode", "--check", "--diff", kube_proxy_mode="iptables")
    assert "table ip kube-proxy of nftables" in announced.output
    assert (container.state(), container.shell("nft list tables")) == (before, tables)
    with container.clients():
        changed = container.play("switch_proxy_mode", kube_proxy_mode="iptables").total("changed")
    assert changed == announced.total("changed")
    container.assert_serves()
    assert "kube-proxy" not in container.shell("nft list tables")
    assert "KUBE-SVC-" in container.shell("iptables-save")
    with container.clients():
        container.play("switch_proxy_mode", kube_proxy_mode="nftables")
    container.assert_serves()
    # kubelet has it too, so kube-proxy does not remove it either.
    left = container.shell("iptables-save; ip6tables-save").replace("KUBE-FIREWALL", "")
    assert "KUBE-" not in left
    assert container.shell("sysctl -n net.ipv4.conf.all.route_localnet").strip() == "0"


def test_reset_leaves_nothing_of_it(container: Site) -> None:
    container.play("reset")
    files = f"ls -d {UNIT} {FILES} /opt/kube-proxy /etc/modules-load.d/fairlead* 2>/dev/null"
    left = container.shell(f"{files}; nft list tables; iptables-save").lower()
    assert "kube" not in left.replace("kube-firewall", "")
    assert "not-found" in container.shell("systemctl show -P LoadState kube-proxy.service")


def foreign(node: Site) -> str:
    """What is somebody else's, and has to be as it is whatever kube-proxy does."""
    rules = "iptables-save | grep -e KUBE-ROUTER-T -e 203.0.113.9"
    return node.shell(f"ipvsadm-save -n | grep 198.18.7.1; ipset list -n | grep T-SET; {rules}")


def of_kube_proxy(node: Site) -> dict[str, list[str]]:
    """Of one mode only: virtual services, sets, chains, and the device."""
    chains = node.shell("iptables-save; ip6tables-save").splitlines()
    return {
        "services": node.shell("ipvsadm-save -n | grep -e '^-A' | grep -v 198.18.7.1; true").splitlines(),
        "sets": node.shell("ipset list -n | grep KUBE; true").splitlines(),
        "ipvs chains": [line for line in chains if line.startswith((":KUBE-IPVS", ":KUBE-NODE-PORT"))],
        "iptables chains": [line for line in chains if line.startswith((":KUBE-SVC", ":KUBE-NODEPORTS"))],
        "device": node.shell("ip -o link show kube-ipvs0 2>/dev/null; true").splitlines(),
    }


def test_ipvs_serves_and_leaves_our_own_range_alone(own_kernel: Site) -> None:
    before = foreign(own_kernel)
    assert "10.1.1.1:80" in before
    own_kernel.play("kube_proxy")
    own_kernel.assert_serves()
    # IPv6, which this cluster has not, comes a moment later.
    wait_until(lambda: "KUBE-6-CLUSTER-IP" in of_kube_proxy(own_kernel)["sets"], "there are sets of IPv6", 600, 1)
    made = of_kube_proxy(own_kernel)
    assert f"-A -t {CLUSTER_IP}:80 -s rr" in made["services"]
    assert made["device"] and made["ipvs chains"]
    assert own_kernel.shell("sysctl -n net.ipv4.tcp_keepalive_time net.ipv4.vs.conntrack").split() == ["600", "1"]
    assert foreign(own_kernel) == before
    assert own_kernel.play("kube_proxy").total("changed") == 0


def test_mode_changes_to_iptables_with_nothing_of_ipvs_left_and_nothing_of_others_gone(own_kernel: Site) -> None:
    before, made = foreign(own_kernel), of_kube_proxy(own_kernel)
    announced = own_kernel.play("switch_proxy_mode", "--check", "--diff", kube_proxy_mode="iptables").output
    missing = [each for each in (f"virtual service tcp {CLUSTER_IP}:80", *made["sets"]) if each not in announced]
    assert (missing, of_kube_proxy(own_kernel)) == ([], made)
    with own_kernel.clients():
        own_kernel.play("switch_proxy_mode", kube_proxy_mode="iptables")
    own_kernel.assert_serves()
    found = of_kube_proxy(own_kernel)
    assert found.pop("iptables chains")
    assert found == {"services": [], "sets": [], "ipvs chains": [], "device": []}
    assert foreign(own_kernel) == before
    assert own_kernel.shell("sysctl -n net.ipv4.tcp_keepalive_time").strip() == "7200"
    assert own_kernel.play("switch_proxy_mode", kube_proxy_mode="iptables").total("changed") == 0


def test_mode_goes_back_to_ipvs_the_same_way(own_kernel: Site) -> None:
    before = foreign(own_kernel)
    with own_kernel.clients():
        own_kernel.play("switch_proxy_mode")
    own_kernel.assert_serves()
    wait_until(lambda: "KUBE-6-CLUSTER-IP" in of_kube_proxy(own_kernel)["sets"], "there are sets of IPv6", 600, 1)
    found = of_kube_proxy(own_kernel)
    assert found.pop("iptables chains") == [] and all(found.values())
    assert foreign(own_kernel) == before


def test_kube_proxy_s_own_clean_up_cannot_remove_virtual_services_of_others(own_kernel: Site) -> None:
    """In mode nftables it cleans up at each start, which removes all virtual services. Its unit keeps it from that."""
    own_kernel.shell("systemctl stop kube-proxy")
    services = own_kernel.shell("ipvsadm-save -n")
    program = own_kernel.shell("ls /opt/kube-proxy/*/kube-proxy").strip()
    unit = own_kernel.shell(f"cat {UNIT}").partition("NoNewPrivileges")
    wanted = [line for line in (unit[1] + unit[2].partition("[Install]")[0]).splitlines() if line and line[0] != "#"]
    given = [word for line in wanted for word in ("-p", line)]
    own_kernel.cluster.run(NODE, "systemd-run", "-q", "--wait", "--pipe", *given, program, "--cleanup", expect=None)
    assert own_kernel.shell("ipvsadm-save -n") == services
    # Without it everything goes, so the unit is what kept them.
    own_kernel.cluster.run(NODE, program, "--cleanup", expect=None)
    assert own_kernel.shell("ipvsadm-save -n") == ""
    own_kernel.shell("systemctl start kube-proxy")
    wait_until(lambda: CLUSTER_IP in own_kernel.shell("ipvsadm-save -n"), "kube-proxy serves again", 600, 1)
