# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What packets to services need beside their virtual servers: which of them are masqueraded, which are refused.

A packet that comes to a service keeps its source address unless the answer would not find the way back through this
node: a pod that reaches itself through a service, a client outside of the pod network that is sent on to a pod
elsewhere, and the node itself, which takes the service's own address as its source.
"""

from __future__ import annotations

import dataclasses
from typing import FrozenSet, Tuple

from .ip_version import IpVersion
from .ipvs import PROTOCOLS
from .parse import Network

# A bit of the packet mark that neither portmap (0x2000), kube-proxy (0x4000, 0x8000), kube-router (0x10000, 0x20000)
# nor Calico (0xffff0000) takes.
MARK = 0x1000
#: An entry is written as ipset(8) does: "10.96.0.10,udp:53".
Entries = FrozenSet[str]


@dataclasses.dataclass(frozen=True)
class ServiceNat:
    """For one IP version. Sets of ``address,protocol:port``, of services unless said otherwise.

    ``hairpins``: pods of this node behind services, each ``address,protocol:port,address``.
    ``cluster``: masqueraded for clients that are not in ``pods``, or with ``masquerade_all`` for all.
    ``outside``: masqueraded for all clients. Services that keep the client's address are in neither.
    ``known``: all on ``addresses``, which are those that only services have; anything else there is refused.
    ``guarded``: only clients of ``allowed`` come in, each ``address,protocol:port,network``.
    """

    version: IpVersion
    pods: Tuple[Network, ...] = ()
    hairpins: Entries = frozenset()
    cluster: Entries = frozenset()
    outside: Entries = frozenset()
    addresses: Entries = frozenset()
    known: Entries = frozenset()
    guarded: Entries = frozenset()
    allowed: Entries = frozenset()
    masquerade_all: bool = False


@dataclasses.dataclass(frozen=True)
class SetKind:
    """``type`` is ipset's; ``directions`` tell which part of a packet is compared with which part of an entry."""

    type: str
    directions: str


# By the name of the field above.
SETS = {
    "hairpins": SetKind("hash:ip,port,ip", "dst,dst,src"),
    "cluster": SetKind("hash:ip,port", "dst,dst"),
    "outside": SetKind("hash:ip,port", "dst,dst"),
    "addresses": SetKind("hash:ip", "dst"),
    "known": SetKind("hash:ip,port", "dst,dst"),
    "guarded": SetKind("hash:ip,port", "dst,dst"),
    "allowed": SetKind("hash:ip,port,net", "dst,dst,src"),
}


def entry_of(protocol: str, address: str, port: int) -> str:
    assert protocol in PROTOCOLS
    return f"{address},{protocol}:{port}"
