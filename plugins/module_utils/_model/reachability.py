# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Probes between nodes and pods: what is probed, who answers, and what counts as a failed pair."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple

from .cni_attachment import NAMESPACE_DIRECTORY
from .errors import SpecError
from .item import BaseItem
from .parse import Section

POD_POD, POD_NODE, NODE_POD = "pod-pod", "pod-node", "node-pod"
KINDS = (POD_POD, POD_NODE, NODE_POD)
# Between pods every address is a pod's own. Other pairs may be masqueraded: pods towards the outside, as a rule.
_WITHOUT_NAT = (POD_POD,)
DEFAULT_PORT = 9931
_PORT_HIGH = 65535
_MTU_LOW, _MTU_HIGH = 68, 65535


@dataclasses.dataclass(frozen=True)
class Responder(BaseItem):
    """A program that answers probes, a systemd service called ``unit``. ``netns`` is a path, empty for the node's."""

    kind: ClassVar[str] = "probe_responder"
    unit: str
    netns: str
    port: int

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.unit,)

    def __str__(self) -> str:
        return f"probe responder {self.unit} in {self.netns or 'the node'} on port {self.port}"


@dataclasses.dataclass(frozen=True)
class Target:
    """One probe. ``expected_mtu`` None: what the interfaces carry, see ``_mtu_relied_on``."""

    name: str
    address: str
    kind: str
    port: int
    expected_mtu: Optional[int] = None


def netns_path(value: str) -> str:
    """A namespace by name or path, as path; empty stays empty."""
    return value if value.startswith("/") or not value else f"{NAMESPACE_DIRECTORY}/{value}"


def parse_targets(data: Mapping[str, Any]) -> List[Target]:
    """Shape of ``data["targets"]``: ``[{name, address, kind, port?, expected_mtu?}]``. Raises SpecError."""
    section = Section(data)
    default_port = section.integer("port", 1, _PORT_HIGH, DEFAULT_PORT)
    targets = [_parse_target(entry, default_port) for entry in section.sections("targets")]
    if not section.get("netns", None):
        for index, target in enumerate(targets):
            if target.kind != NODE_POD:
                raise SpecError(f"targets[{index}].kind", f"{target.kind} starts in a pod, so netns is required")
    return targets


def _parse_target(section: Section, default_port: int) -> Target:
    target = Target(
        name=section.text("name"),
        address=str(section.address("address")),
        kind=section.text("kind", choices=KINDS),
        port=section.integer("port", 1, _PORT_HIGH, default_port),
        expected_mtu=section.integer("expected_mtu", _MTU_LOW, _MTU_HIGH)
        if section.get("expected_mtu", None) is not None
        else None,
    )
    section.finish()
    return target


def result_of(source: str, target: Target, answer: Mapping[str, Any]) -> Dict[str, Any]:
    """What the prober found, judged: ``ok`` unless it is unreachable, has NAT where none may be, or a small MTU."""
    seen = [str(address) for address in answer["seen_sources"]]
    result: Dict[str, Any] = {
        "source": source,
        "target": target.name,
        "kind": target.kind,
        "address": target.address,
        "reachable": bool(answer["reachable"]),
        "rtt_ms": answer["rtt_ms"],
        "seen_source": ", ".join(seen) or None,
        "nat": any(address != answer["local_address"] for address in seen),
        "path_mtu": answer["path_mtu"],
        "expected_mtu": target.expected_mtu or _mtu_relied_on(target, answer),
        "error": str(answer["error"]),
    }
    if result["reachable"]:
        result["error"] = _shortcoming(result)
    return {**result, "ok": not result["error"]}


def _mtu_relied_on(target: Target, answer: Mapping[str, Any]) -> Optional[int]:
    """What the sender's interface carries. A node's may carry more than a pod can take, so there the smaller counts."""
    mtu, peer_mtu = answer["interface_mtu"], answer["peer_mtu"]
    if target.kind == NODE_POD and mtu is not None and peer_mtu is not None:
        return min(int(mtu), int(peer_mtu))
    return int(mtu) if mtu is not None else None


def _shortcoming(result: Mapping[str, Any]) -> str:
    if result["nat"] and result["kind"] in _WITHOUT_NAT:
        return f"NAT on the way: the other side sees {result['seen_source']} instead of the pod's own address"
    if result["path_mtu"] is None:
        return "only small packets pass"
    if result["path_mtu"] < result["expected_mtu"]:
        return f"path MTU is {result['path_mtu']}, below the {result['expected_mtu']} that the sender relies on"
    return ""


def failures_of(results: Sequence[Mapping[str, Any]]) -> List[str]:
    """One line for each failed pair."""
    return [
        f"{result['kind']} {result['source']} -> {result['target']} ({result['address']}): {result['error']}"
        for result in results
        if not result["ok"]
    ]
