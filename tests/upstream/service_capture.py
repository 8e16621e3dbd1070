# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Captures of what real kube-proxy makes of services; kept in tests/fixtures/kube_proxy, made by
scripts/capture-kube-proxy."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.upstream import builds
from tests.upstream.service_cases import NODE, Case, Object, cases
from tests.upstream.services_oracle import Oracle

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "kube_proxy"


@dataclasses.dataclass(frozen=True)
class Variant:
    """Fields of KubeProxyConfiguration, and which cases they are tried with: one of so many, all of those thought out
    counted too."""

    options: dict[str, Any]
    one_of: int = 1

    def cases(self) -> list[Case]:
        return cases()[:: self.one_of]


VARIANTS = {
    "plain": Variant({}),
    "maglev-narrow": Variant(
        {
            "ipvs": {"scheduler": "mh", "strictARP": True},
            "nodePortAddresses": ["192.0.2.0/24"],
            "detectLocalMode": "NodeCIDR",
        },
        5,
    ),
    "masquerade-all-primary": Variant(
        {
            "ipvs": {"scheduler": "wrr"},
            "iptables": {"masqueradeAll": True, "masqueradeBit": 15},
            "nodePortAddresses": ["primary"],
            "clusterCIDR": "10.244.0.0/16,fd00:10:244::/56",
            "detectLocalMode": "ClusterCIDR",
        },
        6,
    ),
}


def recorded(kept: Mapping[str, Any]) -> list[Case]:
    """The cases of a capture: another version of hypothesis draws other ones."""
    return [Case(case["name"], tuple(case["objects"])) for case in kept["cases"]]


def document(variant: Variant, chosen: Sequence[Case], oracle: Oracle) -> dict[str, Any]:
    """What is written: ``node``, ``options``, and for each of ``cases`` its objects and its share of kernel state.

    ``rest`` is nobody's: of Service kubernetes, which the API server makes.
    """
    state = oracle.state_of([made for case in chosen for made in case.objects], **variant.options)
    shares = shared_out(state, chosen)
    return {
        "made_with": versions(oracle),
        "node": NODE,
        "options": variant.options,
        "cases": [{"name": case.name, "objects": list(case.objects), **shares[case.name]} for case in chosen],
        "rest": shares[""],
        "up": state["up"],
        "sets": {name: {"type": entry["type"], **entry["options"]} for name, entry in state["ipsets"].items()},
        "iptables": state["iptables"],
        "ip6tables": state["ip6tables"],
    }


def versions(oracle: Oracle) -> dict[str, str]:
    """What a difference between two captures may come from."""
    node = oracle.node
    return {
        "kubernetes": builds.KUBERNETES_VERSION,
        "kernel": ".".join(node.out("uname -r").split(".")[:2]),
        "iptables": node.out("iptables --version").strip(),
        "ipset": node.out("ipset --version").split(",")[0],
        "ipvsadm": node.out("ipvsadm --version").split()[1],
        "hypothesis": importlib.metadata.version("hypothesis"),
    }


def shared_out(state: dict[str, Any], chosen: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """``ipvs``, ``addresses`` and ``ipsets`` (members by set) of each case, by its name; what is no case's by ""."""
    owners: dict[str, str] = {}
    for case in chosen:
        for key in _keys(case.objects):
            owners.setdefault(key, case.name)
    shares: dict[str, dict[str, Any]] = {
        name: {"ipvs": [], "addresses": [], "ipsets": {}} for name in ("", *(case.name for case in chosen))
    }
    for line in state["ipvs"]:
        # -A -t [fd00:10:96::1]:80 -s rr
        address, _, port = line.split()[2].replace("[", "").replace("]", "").rpartition(":")
        shares[_owner(owners, address, port)]["ipvs"].append(line)
    for address in state["addresses"]:
        shares[owners.get(address.partition("/")[0], "")]["addresses"].append(address)
    for name, entry in state["ipsets"].items():
        for member in entry["members"]:
            # 10.96.1.1,tcp:80,10.0.0.0/8 or 10.96.1.1 or 30080
            words = member.split(",")
            port = words[1].partition(":")[2] if len(words) > 1 else member
            shares[_owner(owners, words[0], port)]["ipsets"].setdefault(name, []).append(member)
    return shares


def _owner(owners: dict[str, str], address: str, port: str) -> str:
    # Pairs first: a service may have an address that is the node's as well.
    found = (owners.get(key) for key in (f"{address} {port}", port, address))
    return next((name for name in found if name is not None), "")


def _keys(objects: Iterable[Object]) -> Iterator[str]:
    """Addresses, pairs of address and port, and node ports of a case."""
    for made in objects:
        if made["kind"] == "EndpointSlice":
            yield from (address for endpoint in made["endpoints"] for address in endpoint["addresses"])
            continue
        spec = made["spec"]
        ingress = made.get("status", {}).get("loadBalancer", {}).get("ingress", [])
        addresses = {spec.get("clusterIP"), *spec.get("clusterIPs", []), *spec.get("externalIPs", [])}
        addresses |= {entry.get("ip") for entry in ingress}
        numbers = [str(port["port"]) for port in spec["ports"]]
        yield from (address for address in addresses if address)
        yield from (f"{address} {number}" for address in addresses if address for number in numbers)
        yield from (str(port["nodePort"]) for port in spec["ports"] if "nodePort" in port)
        if "healthCheckNodePort" in spec:
            yield str(spec["healthCheckNodePort"])
