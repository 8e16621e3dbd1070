# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What a node holds for services: announced, made, repeated, repaired, changed and removed; others' things stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import cluster_service
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError
from ansible_collections.fairlead.cluster.plugins.module_utils._system.files import HEALTH_CHECKS
from tests.kernel.conftest import RunModule
from tests.kernel.ipvs_nodes import foreign, lone_node
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.packet_filters import saved, table_lines
from tests.kernel.service_site import (
    ABSENT,
    DEVICE,
    FOREIGN_IPTABLES,
    Args,
    apply_to,
    document,
    everywhere,
    operations,
    snapshot,
)

pytestmark = pytest.mark.usefixtures("ipvs")

GUARDED = {"loadBalancerSourceRanges": ["192.0.2.9/32", "198.18.0.0/15", "198.18.7.0/24", "2001:db8::/64"]}


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    return lone_node(netns)


def services(way: str) -> Args:
    local = everywhere("local", 81, externalTrafficPolicy="Local")
    return document(way, *everywhere("web", 80, sctp=True, **GUARDED), *local)


def command(way: str, version: str = "") -> str:
    return way.replace("iptables", f"ip{version}tables")


def test_announced_made_repeated_removed(way: str, node: Namespace, tmp_path: Path) -> None:
    bare = snapshot(node)
    predicted = apply_to(tmp_path, node, services(way), check=True)
    assert snapshot(node) == bare and not list(tmp_path.glob("*/*.json"))
    made = apply_to(tmp_path, node, services(way))
    assert sorted(operations(made)) == sorted(operations(predicted))
    wanted = snapshot(node)
    assert wanted != bare
    for check in (True, False):
        assert apply_to(tmp_path, node, services(way), check).operations == []
    announced = apply_to(tmp_path, node, ABSENT, check=True)
    assert snapshot(node) == wanted
    assert len(apply_to(tmp_path, node, ABSENT).operations) == len(announced.operations)
    assert snapshot(node) == bare and not list(tmp_path.glob("*/*.json"))
    for check in (True, False):
        assert apply_to(tmp_path, node, ABSENT, check).operations == []


def test_all_is_announced_where_the_kernel_has_yet_to_load_ipvs(
    way: str, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(cluster_service, "has_ipvs", lambda: False)
        predicted = apply_to(tmp_path, node, services(way), check=True)
    assert sorted(operations(predicted)) == sorted(operations(apply_to(tmp_path, node, services(way))))


def test_addresses_go_where_ipvs_was_taken_away(
    way: str, node: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = snapshot(node)
    apply_to(tmp_path, node, services(way))
    node.run("ipvsadm -C")
    monkeypatch.setattr(cluster_service, "has_ipvs", lambda: False)
    announced = apply_to(tmp_path, node, ABSENT, check=True)
    removed = apply_to(tmp_path, node, ABSENT)
    assert snapshot(node) == bare and operations(removed) == operations(announced)


def test_load_balancers_are_told_when_services_work_and_before_endpoints_go(
    way: str, node: Namespace, tmp_path: Path
) -> None:
    def local(*pods: int) -> Args:
        spec = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 30500}
        return document(way, *everywhere("local", 81, pods, **spec))

    def told() -> list[list[Any]]:
        checks = json.loads(Path(HEALTH_CHECKS).read_text())["checks"]
        return [[each["family"], each["port"], each["endpoints"]] for each in checks]

    made = [str(each) for each in apply_to(tmp_path, node, local(1, 2)).operations]
    assert f"file {HEALTH_CHECKS}" in made[-2], made
    # Of the endpoints one is of this node.
    assert told() == [["ipv4", 30500, 1], ["ipv6", 30500, 1]]
    assert apply_to(tmp_path, node, local(1, 2)).operations == []
    changed = [str(each) for each in apply_to(tmp_path, node, local(2)).operations]
    assert told() == [["ipv4", 30500, 0], ["ipv6", 30500, 0]]
    of_file, of_servers = (
        [at for at, each in enumerate(changed) if word in each] for word in (HEALTH_CHECKS, "- real server")
    )
    assert of_file[0] < min(of_servers)
    Path(HEALTH_CHECKS).unlink()
    assert len(apply_to(tmp_path, node, local(2)).operations) == 1
    apply_to(tmp_path, node, ABSENT)
    assert not Path(HEALTH_CHECKS).exists()


def test_only_the_wanted_way_has_rules(way: str, node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, services(way))
    shown = snapshot(node)
    assert any("fairlead-services" in line for line in shown["nft"]) == (way == "nftables")
    assert any("FAIRLEAD-" in line for line in shown["sets"]) == (way != "nftables")
    assert any("FAIRLEAD-SVC" in line for line in shown["rules"]) == (way != "nftables")
    if way != "nftables":
        assert [line for line in saved(node, way) if "FAIRLEAD-SVC" in line]
        assert "add FAIRLEAD-ALLOWED 203.0.113.80,tcp:80,192.0.2.9" in shown["sets"]
        assert "add FAIRLEAD6-OUTSIDE 2001:db8::1,udp:31080" in shown["sets"]


#: What somebody does by hand, by way.
DRIFT = {
    "iptables": [
        "{command} -t nat -D FAIRLEAD-SVC 1",
        "{command6} -t nat -A FAIRLEAD-SVC -j ACCEPT",
        "{command} -t filter -F FAIRLEAD-SVC-GUARD",
        "{command} -t filter -D INPUT -m comment --comment {comment} -j FAIRLEAD-SVC-GUARD",
        "{command} -t nat -A POSTROUTING -m comment --comment {comment} -j FAIRLEAD-SVC-SNAT",
        "{command} -t nat -A OUTPUT -p tcp -j FAIRLEAD-SVC",
        "ipset del FAIRLEAD-CLUSTER 10.96.0.80,tcp:80",
        "ipset add FAIRLEAD6-KNOWN fd00:10:96::80,tcp:81",
        "ipset flush FAIRLEAD-HAIRPINS",
    ],
    "nftables": [
        "nft flush chain ip fairlead-services postrouting",
        "nft add rule ip6 fairlead-services input accept",
        "nft insert rule ip fairlead-services prerouting meta mark set 7",
        "nft delete element ip fairlead-services cluster {{ 10.96.0.80 . tcp . 80 }}",
        "nft add element ip6 fairlead-services known {{ fd00:10:96::80 . tcp . 81 }}",
        "nft flush set ip fairlead-services allowed",
        "nft add chain ip fairlead-services other",
        "nft 'add set ip fairlead-services more {{ type ipv4_addr; }}'",
        "nft delete table ip6 fairlead-services",
    ],
    "": [
        "ipvsadm -D -t 10.96.0.80:80",
        "ipvsadm -d -t 10.96.0.80:80 -r 10.244.2.2:8080",
        f"ip address delete 10.96.0.80/32 dev {DEVICE}",
        f"ip address add 10.96.0.99/32 dev {DEVICE}",
        f"ip link delete {DEVICE}",
    ],
}


def test_drift_is_repaired(way: str, node: Namespace, tmp_path: Path) -> None:
    apply_to(tmp_path, node, services(way))
    wanted = snapshot(node)
    for line in [*DRIFT[way.split("-")[0]], *DRIFT[""]]:
        done = line.format(command=command(way), command6=command(way, "6"), comment='"fairlead services"')
        node.run(["sh", "-ec", done])
        assert snapshot(node) != wanted, done
        announced = apply_to(tmp_path, node, services(way), check=True)
        assert announced.operations and snapshot(node) != wanted, done
        apply_to(tmp_path, node, services(way))
        assert snapshot(node) == wanted, done


def test_services_come_and_go(way: str, node: Namespace, tmp_path: Path) -> None:
    """A node is as if it had always had the last document."""
    first = document(way, *everywhere("web", 80))
    other = document(way, *everywhere("web", 80, (2,), externalTrafficPolicy="Local"), *everywhere("more", 82))
    ipv4 = document(way, *everywhere("web", 80), families=["ipv4"], masquerade_all=True)
    shown = []
    for args in (first, other, ipv4, first, ipv4, other, ABSENT, other, document(way)):
        apply_to(tmp_path, node, args)
        shown.append(snapshot(node))
    assert shown[0] == shown[3] != shown[1] and shown[1] == shown[5] == shown[7] and shown[2] == shown[4]
    assert shown[8] == shown[6]


def test_nothing_of_others_is_touched(way: str, node: Namespace, tmp_path: Path) -> None:
    kinds = [] if way == "nftables" else [command(way), command(way, "6")]
    for each in kinds:
        rules = _of_ipv6(FOREIGN_IPTABLES) if "6" in each else FOREIGN_IPTABLES
        node.run([f"{each}-restore", "--noflush"], data=rules)
    if way == "nftables":
        node.run(
            "nft -f -", data="table ip other { set known { type ipv4_addr; }\n chain c { ip saddr @known drop\n } }"
        )
    else:
        for line in (
            "create KUBE-CLUSTER-IP hash:ip,port",
            "add KUBE-CLUSTER-IP 10.96.9.9,tcp:80",
            "create FAIRLEADS hash:ip",
        ):
            node.run(f"ipset {line}")
    foreign(node, ["-A -t 10.96.9.9:80 -s rr", "-a -t 10.96.9.9:80 -r 10.244.9.9:80 -g -w 7"])
    node.run("ip link add kube-ipvs0 type dummy")
    node.run("ip address add 10.96.9.9/32 dev kube-ipvs0")
    before = snapshot(node)
    for args in (services(way), document(way, *everywhere("web", 82)), document(way)):
        apply_to(tmp_path, node, args)
        now = snapshot(node)
        assert all(set(lines) <= set(now[kind]) for kind, lines in before.items())
        # Before all others where packets are refused or lose our mark, and after them where packets are only marked.
        if kinds and args["objects"]:
            first = {
                "PREROUTING": "KUBE-SERVICES",
                "POSTROUTING": "FAIRLEAD-SVC-SNAT",
                "INPUT": "FAIRLEAD-SVC-GUARD",
            }
            for chain, target in first.items():
                assert [line for line in saved(node, way) if line.startswith(f"-A {chain} ")][0].endswith(target)
    apply_to(tmp_path, node, ABSENT)
    assert snapshot(node) == before


def _of_ipv6(rules: str) -> str:
    return rules.replace("198.18.0.0/15", "2001:db8:9::/48").replace("198.18.0.1/32", "2001:db8:9::1/128")


def test_set_of_somebody_else_with_our_name(way: str, node: Namespace, tmp_path: Path) -> None:
    if way == "nftables":
        pytest.skip("sets of nftables are in our own table")
    node.run("ipset create FAIRLEAD-KNOWN hash:ip,port,net")
    before = snapshot(node)
    with pytest.raises(ApplyError, match="FAIRLEAD-KNOWN .*is none of ours; destroy it"):
        apply_to(tmp_path, node, services(way))
    assert snapshot(node) == before


def test_module_as_a_process(way: str, node: Namespace, run_module: RunModule) -> None:
    """The same through the module itself, with its diff and what it passed over."""
    args = document(way, *everywhere("web", 80), {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}})
    announced = run_module("cluster_service", args, netns=node, check=True, diff=True)
    made = run_module("cluster_service", args, netns=node, diff=True)
    assert made["changed"] and announced["operations"] == made["operations"] and made["diff"]
    assert made["passed_over"] == ["Pod web: neither a Service nor an EndpointSlice"]
    assert not run_module("cluster_service", args, netns=node)["changed"]
    text = json.dumps(made["operations"])
    assert '{\\"' not in text, "rules are told as people write them"
    wrong = run_module("cluster_service", {**args, "node": {"name": "n1", "scheduler": "wild"}}, netns=node, fails=True)
    assert wrong["msg"].startswith("node.scheduler: ")
    gone = run_module("cluster_service", {"state": "absent"}, netns=node)
    assert gone["changed"] and not table_lines(node, "ip", "fairlead-services")
