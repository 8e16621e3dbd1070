# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy changes from mode ipvs to nftables and back in one kernel that has both, and what goes is its own only.

The kernel is the distribution's, emulated, as node n1. The API server, the pod behind the services, and clients
from outside are in the namespace at the other end of its link. The tests run in the order of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy import (
    as_yaml,
    configuration,
    unit_text,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_checks import parse_kube_proxy
from ansible_collections.fairlead.cluster.plugins.module_utils._model.kube_proxy_options import KubeProxy
from tests.kernel.conftest import MODULES
from tests.kernel.guest_debian import DebianKernel
from tests.kernel.guest_node import GuestNode
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.service_flows import Servers, ask, asking
from tests.lab.cluster import TOP
from tests.upstream import builds, capture
from tests.upstream.conftest import Programs
from tests.upstream.kube_proxy import METRICS_PORT, GuestKubeProxy
from tests.upstream.kubernetes_api import Object, running
from tests.upstream.lan import PREFIX, set_sysctls
from tests.upstream.service_cases import NODE, SERVICE_RANGES
from tests.upstream.service_corners import Places, endpoint_slice, service
from tests.upstream.services_oracle import API_ADDRESS, node_object

pytestmark = pytest.mark.slow

MEMORY_MIB = 1024
#: Of mode ipvs with iptables-nft, and of mode nftables.
KERNEL_MODULES = (
    *("crc32c_generic", "dummy", "nf_conntrack", "nf_conntrack_netlink", "nf_nat"),
    *("ip_vs", "ip_vs_rr", "ip_set_bitmap_port", "ip_set_hash_ip"),
    *("ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet"),
    *("xt_set", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_ipvs", "xt_mark", "xt_physdev", "xt_tcpudp"),
    *("xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT", "nf_tables", "nft_compat", "nft_chain_nat"),
    *("nft_ct", "nft_nat", "nft_masq", "nft_numgen"),
    *("nft_fib_ipv4", "nft_fib_ipv6", "nft_reject_ipv4", "nft_reject_ipv6"),
)
AT = Places(2)
POD = {family: AT.pod(family, 7) for family in ("IPv4", "IPv6")}
PORT, NODE_PORT = 8080, AT.node_port(0)
CLUSTER = tuple(AT.cluster(family) for family in POD)
HOST = (f"{API_ADDRESS}/24", "2001:db8::1/64")
DIRECTORY, BIN = "/run/kube-proxy", "/run/bin"
VIRTUAL = ("198.18.7.0/24", "fd00:99::/112")
# All that is somebody else's. Of virtual services, kube-proxy in mode ipvs leaves those in excludeCIDRs only; the
# others come when it does not run in that mode: one on no address of the node, and one beside its node ports.
EXCLUDED = """-A -t 198.18.7.1:80 -s rr
-a -t 198.18.7.1:80 -r 10.1.1.1:80 -m -w 1
-A -t [fd00:99::1]:80 -s rr
-a -t [fd00:99::1]:80 -r [fd00:1::1]:80 -m -w 1
"""
OTHERS = """-A -t 203.0.113.7:443 -s rr
-a -t 203.0.113.7:443 -r 10.1.1.2:443 -m -w 1
-A -t 192.0.2.2:8443 -s rr
-a -t 192.0.2.2:8443 -r 10.1.1.3:443 -m -w 1
"""
FURNISH = f"""
echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip route add default via {API_ADDRESS}; ip route add default via 2001:db8::1
mkdir {DIRECTORY}
ipset create T-SET hash:ip; ipset add T-SET 203.0.113.9
iptables -N KUBE-ROUTER-T; iptables -A KUBE-ROUTER-T -m set --match-set T-SET src -j RETURN
iptables -I FORWARD -j KUBE-ROUTER-T; iptables -t nat -A POSTROUTING -s 203.0.113.9 -j MASQUERADE
ip6tables -A INPUT -s 2001:db8::9 -j ACCEPT
nft 'add table inet other; add set inet other s {{ type ipv4_addr; elements = {{ 203.0.113.9 }}; }}
add chain inet other c {{ type filter hook input priority 0; }}; add rule inet other c ip saddr @s accept'
# It answers as where kmod finds the modules loaded.
printf '#!/bin/sh\nexit 0\n' >{BIN}/modprobe; chmod +x {BIN}/modprobe
"""
# The unit of role kube_proxy hides from kube-proxy what it cleans up after other modes with, by such mounts. In mode
# nftables it would take modprobe's success for a sign that IPVS is to be cleaned, and remove all virtual services.
_HIDE = 'for path in {paths}; do mount --bind /dev/null $path; done; exec "$@"'
# By the fields of State.
_COMMANDS = {
    "services": "ipvsadm-save -n | sort",
    "sets": "ipset save | sort",
    "iptables": "iptables-save",
    "ip6tables": "ip6tables-save",
    "tables": "nft list tables",
    "other": "nft list table inet other",
    "maps": "for v in ip ip6; do nft list map $v kube-proxy service-ips 2>/dev/null || true; done",
    "device": "ip -o address show dev kube-ipvs0 2>/dev/null || true",
}
_READ = "\n".join(f"echo '={name}'; {command}" for name, command in _COMMANDS.items())
_ASK = 'for address in "$@"; do nc -w 30 $address 80 </dev/null; echo; done'
Lines = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """Of the node's kernel, lines as commands say them; of iptables rules and the chains that somebody made."""

    services: Lines
    sets: Lines
    iptables: Lines
    ip6tables: Lines
    tables: Lines
    other: Lines
    maps: Lines
    device: Lines

    def of_ipvs(self) -> dict[str, Lines]:
        """What kube-proxy made in mode ipvs."""
        others = {*EXCLUDED.splitlines(), *OTHERS.splitlines()}
        return {
            "services": tuple(line for line in self.services if line not in others),
            "sets": tuple(line for line in self.sets if _by_name(line)),
            "iptables": tuple(line for line in self.iptables if _by_name(line)),
            "ip6tables": tuple(line for line in self.ip6tables if _by_name(line)),
            "device": self.device,
        }

    def of_nftables(self) -> list[str]:
        return [line for line in self.tables if line.endswith(" kube-proxy")]

    def of_others(self) -> dict[str, Lines]:
        """All the rest, but for tables of nftables that are iptables' own."""
        rest = {
            name: tuple(line for line in getattr(self, name) if line not in of_it)
            for name, of_it in self.of_ipvs().items()
        }
        return {**rest, "other": self.other}


def _by_name(line: str) -> bool:
    return "KUBE-" in line and "KUBE-ROUTER-T" not in line


class Site:
    def __init__(self, namespace: Namespace, node: GuestNode, program: Path, kubeconfig: Path) -> None:
        self.namespace, self.node, self.kubeconfig = namespace, node, kubeconfig
        self.program = program
        self.proxy = GuestKubeProxy(node, program)

    def run_kube_proxy(self, mode: str) -> None:
        """With the configuration that the role writes, and without the commands that its unit hides."""
        proxy = self._variables(mode)
        hidden = re.findall(r"-/usr/sbin/(\S+)", unit_text(proxy, "", "").partition("InaccessiblePaths=")[2])
        assert "modprobe" in hidden
        paths = self.node.out(["sh", "-c", 'for name in "$@"; do command -v $name; done', "sh", *hidden]).split()
        self.proxy.stop()
        config = as_yaml(configuration(proxy, str(self.kubeconfig)))
        self.node.run(["sh", "-c", f"cat >{DIRECTORY}/config.yaml"], data=config)
        before = ("unshare", "--mount", "sh", "-ec", _HIDE.format(paths=" ".join(paths)), "sh")
        self.proxy.start(Path(DIRECTORY, "config.yaml"), before=before)

    def _variables(self, mode: str) -> KubeProxy:
        variables = {
            "cluster_api_server": f"https://{API_ADDRESS}:6443",
            "cluster_pod_cidr": "10.244.0.0/16",
            "cluster_pod_cidr6": "fd00:10:244::/56",
            "cluster_service_cidr": SERVICE_RANGES[0],
            "cluster_virtual_cidrs": VIRTUAL,
            "kube_proxy_mode": mode,
            "kube_proxy_hostname_override": NODE["name"],
            "kube_proxy_metrics_bind_address": f"0.0.0.0:{METRICS_PORT}",
        }
        return parse_kube_proxy(variables)

    def clean(self, keep: str, check: bool = False) -> dict[str, Any]:
        """Module kube_proxy_state, as role kube_proxy calls it."""
        given = {"keep": keep, "exclude_cidrs": VIRTUAL, "directory": DIRECTORY}
        internal = {"_ansible_check_mode": check, "_ansible_remote_tmp": "/run/tmp"}
        paths = {"PYTHONPATH": TOP / "collections", "FAIRLEAD_STATE_DIR": "/run/state", "FAIRLEAD_RUN_DIR": "/run/run"}
        done = self.node.run(
            ["env", *(f"{name}={path}" for name, path in paths.items())]
            + [sys.executable, "-m", f"{MODULES}.kube_proxy_state"],
            data=json.dumps({"ANSIBLE_MODULE_ARGS": {**given, **internal}}),
            timeout=600,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def state(self) -> State:
        text = self.node.run(["sh", "-ec", _READ], timeout=600).stdout
        parts = (part.partition("\n") for part in re.split(r"^=", text, flags=re.MULTILINE)[1:])
        lines = {name: tuple(line.strip() for line in body.splitlines()) for name, _, body in parts}
        rules = {name: tuple(_rules(lines[name])) for name in ("iptables", "ip6tables")}
        return State(**{**lines, **rules})

    @contextlib.contextmanager
    def clients(self) -> Iterator[None]:
        """One after the other from outside: none of them notices what happens in the block."""
        with contextlib.ExitStack() as stack:
            asked = {each: stack.enter_context(asking(self.namespace, each, NODE_PORT)) for each in NODE["addresses"]}
            yield
        assert {address: set(answers) for address, answers in asked.items()} == {
            address: {f"pod {address}"} for address in asked
        }

    def answers(self) -> dict[str, str]:
        """Who answers, and whom it sees: the service's own addresses from the node, its port from outside."""
        said = self.node.run(["sh", "-c", _ASK, "sh", *CLUSTER], timeout=600).stdout.splitlines()
        outside = {address: ask(self.namespace, address, NODE_PORT) for address in NODE["addresses"]}
        return {**dict(zip(CLUSTER, said, strict=True)), **outside}


SERVES = {
    **{address: f"pod {seen}" for address, seen in zip(CLUSTER, NODE["addresses"], strict=True)},
    # Masqueraded: to the pod they come from the node.
    **{address: f"pod {address}" for address in NODE["addresses"]},
}


def _rules(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("-A ") or re.match(r":\S+ - ", line):
            yield re.sub(r" \[\d+:\d+\]$", "", line)


def objects() -> Iterator[Object]:
    """One that is reached in every way, and one whose sources are limited, which takes more chains and sets."""
    families = list(POD)
    web: Object = {
        "type": "NodePort",
        "clusterIPs": list(CLUSTER),
        "ipFamilies": families,
        "ipFamilyPolicy": "RequireDualStack",
    }
    yield service("web", [{"port": 80, "targetPort": PORT, "nodePort": NODE_PORT}], clusterIP=CLUSTER[0], **web)
    balanced: Object = {
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "externalIPs": ["198.18.2.9"],
    }
    made = service("balanced", [{"port": 53, "protocol": "UDP", "nodePort": AT.node_port(1)}], **balanced)
    yield {**made, "status": {"loadBalancer": {"ingress": [{"ip": AT.ingress("IPv4-1")}]}}}
    for family, address in POD.items():
        pods = [{"addresses": [address], "nodeName": "n2"}]
        yield endpoint_slice("web", family.lower(), family, pods, [{"port": PORT}])
    pods = [{"addresses": [POD["IPv4"]], "nodeName": "n2"}]
    yield endpoint_slice("balanced", "a", "IPv4", pods, [{"port": PORT, "protocol": "UDP"}])


@pytest.fixture(scope="module")
def site(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory, netns = tmp_path_factory.mktemp("switch"), Namespaces(PREFIX)
    found = programs(builds.KUBERNETES), programs(capture.ETCD)
    try:
        namespace = netns("api")
        set_sysctls(namespace, {"ipv6/conf/default/accept_dad": 0, "ipv6/conf/lo/accept_dad": 0})
        for address in POD.values():
            namespace.run(f"ip address add {address} dev lo")
        addresses = NODE["interfaces"]["eth0"]
        kernel = DebianKernel(MEMORY_MIB)
        node = GuestNode(kernel, namespace, directory, addresses, HOST, KERNEL_MODULES, iptables="iptables-nft")
        try:
            node.run(["sh", "-ec", FURNISH])
            node.run("ipvsadm -R", data=EXCLUDED)
            with running(namespace, directory / "api", found, API_ADDRESS, ",".join(SERVICE_RANGES)) as api:
                for each in (node_object(), *objects()):
                    api.create(each)
                with Servers() as servers:
                    servers.add(namespace, "pod", port=PORT)
                    yield Site(namespace, node, found[0] / "kube-proxy", api.kubeconfig(directory / "kubeconfig"))
        finally:
            node.stop()
    finally:
        netns.remove()


def test_mode_ipvs_serves_beside_what_is_others(site: Site) -> None:
    before = site.state()
    assert before.services == tuple(sorted(EXCLUDED.splitlines())) and not any(before.of_ipvs().values())
    site.run_kube_proxy("ipvs")
    assert site.answers() == SERVES
    found = site.state()
    assert found.of_others() == before.of_others()
    made = found.of_ipvs()
    for address, node in zip((CLUSTER[0], f"[{CLUSTER[1]}]"), ("192.0.2.2", "[2001:db8::2]"), strict=True):
        assert {f"-A -t {address}:80 -s rr", f"-A -t {node}:{NODE_PORT} -s rr"} <= set(made["services"])
    assert f"add KUBE-CLUSTER-IP {CLUSTER[0]},tcp:80" in made["sets"]
    assert f"add KUBE-6-CLUSTER-IP {CLUSTER[1]},tcp:80" in made["sets"]
    assert ":KUBE-IPVS-FILTER -" in made["iptables"] and ":KUBE-IPVS-FILTER -" in made["ip6tables"]
    assert made["device"] and not found.of_nftables()


def test_mode_nftables_serves_and_leaves_virtual_services_alone(site: Site) -> None:
    site.proxy.stop()
    site.node.run("ipvsadm -R", data=OTHERS)
    before = site.state()
    with site.clients():
        site.run_kube_proxy("nftables")
    assert site.answers() == SERVES
    found = site.state()
    assert found.services == before.services and found.sets == before.sets and found.device == before.device
    assert found.of_others() == before.of_others()
    assert found.of_nftables() == ["table ip kube-proxy", "table ip6 kube-proxy"]
    assert all(any(f"{address} . tcp . 80 : goto " in line for line in found.maps) for address in CLUSTER)


def test_all_that_mode_ipvs_left_goes_and_nothing_of_others(site: Site) -> None:
    before = site.state()
    assert all(before.of_ipvs().values())
    announced = site.clean("nftables", check=True)
    assert announced["changed"] and site.state() == before
    with site.clients():
        done = site.clean("nftables")
    assert done["changed"] and done["operations"] == announced["operations"]
    found = site.state()
    assert not any(found.of_ipvs().values())
    assert found.of_others() == before.of_others()
    assert found.services == tuple(sorted([*EXCLUDED.splitlines(), *OTHERS.splitlines()]))
    assert (found.of_nftables(), found.maps) == (before.of_nftables(), before.maps)
    assert site.answers() == SERVES
    assert not site.clean("nftables")["changed"] and site.state() == found


def test_mode_goes_back_to_ipvs_the_same_way(site: Site) -> None:
    before = site.state()
    with site.clients():
        site.run_kube_proxy("ipvs")
        both = site.state()
        done = site.clean("ipvs")
    assert both.of_nftables() == before.of_nftables() and all(both.of_ipvs().values())
    assert sorted(done["operations"]) == [f"- table {name} kube-proxy of nftables" for name in ("ip", "ip6")]
    found = site.state()
    assert not found.of_nftables() and all(found.of_ipvs().values())
    # kube-proxy in this mode removes services that it is not told to leave alone.
    excluded = tuple(sorted(EXCLUDED.splitlines()))
    assert found.of_others() == {**before.of_others(), "services": excluded}
    assert site.answers() == SERVES


def test_kube_proxy_s_own_clean_up_removes_all_virtual_services_and_leaves_sets(site: Site) -> None:
    """So what kept them is that kube-proxy cannot call modprobe. What it leaves, the module removes."""
    site.proxy.stop()
    site.node.run([str(site.program), "--cleanup"], check=False, timeout=600)
    found = site.state()
    assert found.services == ()
    assert any(" KUBE-6-" in line for line in found.sets)
    assert site.clean("none")["changed"]
    assert not any(site.state().of_ipvs().values())
