# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What playbook ``verify`` asks of whom, and what it reports: from the results that the hosts of this run registered.

Registered variables of a host: ``verify_attachment``, ``verify_probes``, ``verify_drift``, ``verify_members``, and
``verify_problem`` with the reason when its probes could not be carried out. A host that did not answer has none.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Union

from ansible_collections.fairlead.cluster.plugins.filter.cluster import cluster_nodes

POD_POD, POD_NODE, NODE_POD = "pod-pod", "pod-node", "node-pod"
_Hostvars = Mapping[str, Mapping[str, Any]]
Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]


def probe_targets(hosts: Iterable[str], hostvars: _Hostvars, source: str) -> List[Dict[str, str]]:
    """Targets of module ``reachability`` for the node ``source``: every other node's pod from its own pod, every node
    from its pod, and every pod from the node. Each of them by IPv4, and in a dual-stack cluster by IPv6 as well. Only
    hosts with a pod of this run count.
    """
    nodes = [node for node in cluster_nodes(hosts, hostvars, first6="") if _pods(hostvars[node["name"]])]
    targets = []
    for node in nodes:
        for pod in _pods(hostvars[node["name"]]):
            kinds = [NODE_POD] if node["name"] == source else [POD_POD, NODE_POD]
            targets += [{"name": node["name"], "address": str(pod.ip), "kind": kind} for kind in kinds]
        addresses = [node[key] for key in ("address", "address6") if key in node]
        targets += [{"name": node["name"], "address": address, "kind": POD_NODE} for address in addresses]
    return targets


def verification(hosts: Iterable[str], hostvars: _Hostvars, etcd: Iterable[str]) -> Dict[str, Any]:
    """The report: ``{nodes, etcd, results, problems}``, see docs/how-to/verify.md. Nothing is wrong when ``problems``,
    one line each, is empty.
    """
    nodes = [_node(node, hostvars[node["name"]]) for node in cluster_nodes(hosts, hostvars, first6="")]
    asked = [hostvars[host]["verify_members"] for host in etcd if hostvars[host].get("verify_members")]
    members: List[Mapping[str, Any]] = next((answer["members"] for answer in asked if answer.get("members")), [])
    results = [result for node in nodes for result in _probes(hostvars[node["name"]])]
    problems = [f"{node['name']}: {problem}" for node in nodes for problem in node["problems"]]
    problems += [_failed_pair(result) for result in results if not result["ok"]]
    problems += _etcd_problems(members, asked)
    return {"nodes": nodes, "etcd": list(members), "results": results, "problems": problems}


def verification_summary(report: Mapping[str, Any]) -> List[str]:
    """The report in lines for people; each family has its own where there are two."""
    dual = any(":" in result["address"] for result in report["results"])
    lines = []
    for kind in (POD_POD, POD_NODE, NODE_POD):
        results = [result for result in report["results"] if result["kind"] == kind]
        for family, mark in ((" IPv4", "."), (" IPv6", ":")) if dual else (("", ""),):
            lines.append(f"{kind}{family}: {_summary([result for result in results if mark in result['address']])}")
    members = report["etcd"]
    leaders = [str(member["name"]) for member in members if member.get("leader")]
    healthy = sum(1 for member in members if member.get("healthy"))
    return [*lines, f"etcd: {healthy} of {len(members)} members healthy, leader {', '.join(leaders) or 'none'}"]


def _summary(results: List[Mapping[str, Any]]) -> str:
    good = [result for result in results if result["ok"]]
    times = [result["rtt_ms"] for result in good if result["rtt_ms"] is not None]
    sizes = sorted({result["path_mtu"] for result in good})
    facts = f", slowest {max(times):.2f} ms, path MTU {'/'.join(map(str, sizes))}" if times else ""
    return f"{len(good)} of {len(results)} pairs good{facts}"


def _pods(variables: Mapping[str, Any]) -> List[Interface]:
    """The pod's address of each family, with the prefix of its subnet."""
    addresses = (variables.get("verify_attachment") or {}).get("addresses") or []
    return [ipaddress.ip_interface(address) for address in addresses]


def _probes(variables: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    return list((variables.get("verify_probes") or {}).get("results") or [])


def _node(node: Mapping[str, str], variables: Mapping[str, Any]) -> Dict[str, Any]:
    pods = {pod.version: pod for pod in _pods(variables)}
    pod, pod6 = pods.get(4), pods.get(6)
    half = {"subnet": str(pod.network) if pod else None, "pod": str(pod.ip) if pod else None}
    half6 = {"subnet6": str(pod6.network) if pod6 else None, "pod6": str(pod6.ip) if pod6 else None}
    dual = "address6" in node
    return {
        **node,
        **half,
        **(half6 if dual else {}),
        "problems": [*_node_problems(variables), *_lacking(pod, pod6 if dual else pod)],
    }


def _lacking(pod: Optional[Interface], pod6: Optional[Interface]) -> List[str]:
    """What a pod that was attached should have and has not; a pair that cannot be probed must not go unnoticed."""
    if (pod is None) == (pod6 is None):
        return []
    return [f"its pod has no {'IPv6' if pod else 'IPv4'} address; run site.yml, then attach pods anew"]


def _node_problems(variables: Mapping[str, Any]) -> List[str]:
    drift = variables.get("verify_drift")
    if drift is None or drift.get("unreachable"):
        return ["did not answer, so nothing is known about it"]
    problems = [str(variables["verify_problem"])] if variables.get("verify_problem") else []
    if drift.get("rc") == 1:
        problems += [f"drift: {line}" for line in drift.get("stdout_lines") or []]
    elif drift.get("rc") != 0:
        reason = drift.get("stderr") or drift.get("msg") or "no reason given"
        problems.append(f"drift could not be looked for: {reason}")
    return problems


def _failed_pair(result: Mapping[str, Any]) -> str:
    return f"{result['kind']} {result['source']} -> {result['target']} ({result['address']}): {result['error']}"


def _etcd_problems(members: List[Mapping[str, Any]], asked: List[Mapping[str, Any]]) -> List[str]:
    if not members:
        reasons = [str(answer["msg"]) for answer in asked if answer.get("msg")]
        return [f"etcd: no member told about the cluster{': ' + reasons[0] if reasons else ''}"]
    problems = [f"etcd: member {member['name']} is not healthy" for member in members if not member.get("healthy")]
    leaders = [str(member["name"]) for member in members if member.get("leader")]
    if len(leaders) != 1:
        problems.append(f"etcd: one leader is needed, seen: {', '.join(leaders) or 'none'}")
    return problems


class FilterModule:
    def filters(self) -> Dict[str, Callable[..., Any]]:
        return {
            "probe_targets": probe_targets,
            "verification": verification,
            "verification_summary": verification_summary,
        }
