# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy leaves in chains, sets and tables: removed for the mode that stays, to the last rule, with all else
as it was. Virtual services need a kernel with IPVS; tests/upstream/test_kube_proxy_role.py has them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace, Namespaces

pytestmark = pytest.mark.kernel

RunModule = Callable[..., dict[str, Any]]
# In the form and order of kube-proxy 1.36, between rules of others.
BOTH = """*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A INPUT -s 203.0.113.1/32 -j ACCEPT
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -s 203.0.113.2/32 -j ACCEPT
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -s 203.0.113.3/32 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
"""
IPTABLES = """*filter
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-CANARY - [0:0]
-I INPUT 1 -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
COMMIT
*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-AAAA - [0:0]
:KUBE-SEP-BBBB - [0:0]
:KUBE-EXT-CCCC - [0:0]
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-CCCC
-A KUBE-EXT-CCCC -j KUBE-SVC-AAAA
-A KUBE-SVC-AAAA -m comment --comment "default/web -> 10.244.1.2:8080" -j KUBE-SEP-BBBB
-A KUBE-SEP-BBBB -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
COMMIT
"""
IPVS_SETS = """create KUBE-CLUSTER-IP hash:ip,port family inet
add KUBE-CLUSTER-IP 10.96.0.10,tcp:53
create KUBE-IPVS-IPS hash:ip family inet
create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6
create KUBE-ROUTER-SET hash:ip family inet
"""
IPVS = """*filter
:KUBE-NODE-PORT - [0:0]
:KUBE-IPVS-FILTER - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
COMMIT
*nat
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
COMMIT
"""
NFT = """table ip kube-proxy {
  comment "rules for kube-proxy"
  set cluster-ips {
    type ipv4_addr
    elements = { 10.96.0.10, 10.96.0.80 }
  }
  chain services {
    ip daddr @cluster-ips counter drop
  }
  chain nat-prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }
}
table ip6 kube-proxy {
}
table ip other {
}
"""


@pytest.fixture
def node(netns: Namespaces) -> Namespace:
    for command in ("iptables-restore", "ipset", "nft"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")
    made = netns("node")
    made.run("ipset restore", data=IPVS_SETS)
    for command in ("iptables", "ip6tables"):
        text = BOTH if command == "iptables" else BOTH.replace("203.0.113.", "2001:db8::").replace("/32", "/128")
        made.run(f"{command}-restore", data=text)
    made.run("nft -f -", data=NFT)
    return made


def rules(node: Namespace) -> list[str]:
    saved = node.out("iptables-save") + node.out("ip6tables-save")
    return [line for line in saved.splitlines() if not line.startswith("#")]


def everything(node: Namespace) -> tuple[list[str], str, str]:
    sets = "\n".join(sorted(node.out("ipset save").splitlines()))
    return rules(node), sets, "\n".join(sorted(node.out("nft list tables").splitlines()))


def keep(run_module: RunModule, node: Namespace, mode: str, **others: Any) -> dict[str, Any]:
    return run_module("kube_proxy_state", {"keep": mode, **others.pop("parameters", {})}, netns=node, **others)


def test_iptables_goes_from_under_ipvs_and_the_other_way_round(node: Namespace, run_module: RunModule) -> None:
    node.run("iptables-restore --noflush", data=IPVS)
    only_ipvs, sets, tables = everything(node)
    node.run("iptables-restore --noflush", data=IPTABLES)
    node.run("nft delete table ip kube-proxy")
    node.run("nft delete table ip6 kube-proxy")
    both = everything(node)
    announced = keep(run_module, node, "ipvs", check=True)
    assert announced["changed"] and everything(node) == both
    keep(run_module, node, "ipvs")
    found = everything(node)
    assert sorted(found[0]) == sorted(only_ipvs) and found[1] == sets
    assert [line for line in found[0] if line.startswith("-A")] == [line for line in only_ipvs if line.startswith("-A")]
    assert not keep(run_module, node, "ipvs")["changed"]


def test_for_nftables_all_rules_and_sets_go_and_the_table_stays(node: Namespace, run_module: RunModule) -> None:
    node.run("iptables-restore --noflush", data=IPVS + IPTABLES)
    keep(run_module, node, "nftables")
    left = "\n".join(rules(node))
    assert [word for word in ("KUBE-FIREWALL", "KUBE-ROUTER-FORWARD") if word not in left] == []
    assert left.count("KUBE-") == left.count("KUBE-FIREWALL") + left.count("KUBE-ROUTER-FORWARD")
    for other in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::3"):
        assert other in left
    assert node.out("ipset list -n").split() == ["KUBE-ROUTER-SET"]
    assert node.out("nft list tables").count("kube-proxy") == 2
    assert not keep(run_module, node, "nftables")["changed"]


def test_when_kube_proxy_is_gone_all_of_it_goes(node: Namespace, run_module: RunModule) -> None:
    node.run("iptables-restore --noflush", data=IPVS + IPTABLES)
    keep(run_module, node, "none")
    assert "kube-proxy" not in node.out("nft list tables") and "ip other" in node.out("nft list tables")
    assert node.out("ipset list -n").split() == ["KUBE-ROUTER-SET"]


def test_what_was_removed_comes_back_when_a_step_fails(node: Namespace, run_module: RunModule) -> None:
    """A rule of somebody else's uses a set of kube-proxy's, which the kernel then does not let go."""
    node.run("iptables-restore --noflush", data=IPVS + IPTABLES)
    node.run("iptables -A OUTPUT -m set --match-set KUBE-IPVS-IPS dst -j ACCEPT")
    before, contents = everything(node), node.out("nft list ruleset")
    failed = keep(run_module, node, "none", fails=True)
    assert "set KUBE-IPVS-IPS" in failed["msg"] and "in use" in failed["msg"]
    found = everything(node)
    assert sorted(found[0]) == sorted(before[0]) and found[1:] == before[1:]
    order = [[line for line in each if line.startswith("-A")] for each in (found[0], before[0])]
    assert sorted(order[0]) == sorted(order[1])
    for chain in ("INPUT", "FORWARD", "PREROUTING", "POSTROUTING"):
        of_chain = [[line for line in each if line.startswith(f"-A {chain} ")] for each in order]
        assert of_chain[0] == of_chain[1]
    assert "elements = { 10.96.0.10, 10.96.0.80 }" in contents and "elements = { 10.96.0.10, 10.96.0.80 }" in node.out(
        "nft list ruleset"
    )


def test_state_of_the_configured_mode_is_not_removed(node: Namespace, run_module: RunModule, tmp_path: Any) -> None:
    (tmp_path / "config.yaml").write_text('mode: "nftables"\n')
    before = everything(node)
    failed = keep(run_module, node, "ipvs", fails=True, parameters={"directory": str(tmp_path)})
    assert failed["msg"] == "keep: ipvs, and kube-proxy of this node is configured for mode nftables"
    switching = {"directory": str(tmp_path), "switching": True}
    assert keep(run_module, node, "ipvs", fails=True, parameters=switching)["msg"] == failed["msg"]
    announced = keep(run_module, node, "ipvs", check=True, parameters=switching)["operations"]
    assert sorted(announced) == [f"- table {family} kube-proxy of nftables" for family in ("ip", "ip6")]
    assert everything(node) == before


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"node_ports": "30000"}, "node_ports: must be a range of ports like 30000-32767, not '30000'"),
        ({"node_ports": "32767-30000"}, "node_ports: must be a range"),
        ({"node_ports": "0-65536"}, "node_ports: must be a range"),
        ({"exclude_cidrs": ["198.18.0.1/24"]}, "exclude_cidrs[0]: 198.18.0.1/24 has host bits set"),
    ],
)
def test_wrong_parameter_is_refused_and_nothing_changed(
    node: Namespace, run_module: RunModule, parameters: dict[str, Any], text: str
) -> None:
    before = everything(node)
    failed = keep(run_module, node, "none", fails=True, parameters=parameters)
    assert text in failed["msg"] and everything(node) == before
