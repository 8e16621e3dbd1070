# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Documents of overlay_lease for tests with an etcd in memory, and that etcd in the place of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import leases as leases_module
from tests.unit.etcd.fake_etcd import FakeEtcd

PREFIX = "/coreos.com/network"
NAMES = [f"n{number}" for number in range(1, 6)]
FOREIGN = (
    '{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"}}'
)


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEtcd]:
    fake = FakeEtcd()
    monkeypatch.setattr(overlay_lease, "Gateway", lambda access: fake)
    monkeypatch.setattr(leases_module, "LONGEST_PAUSE", 0)
    yield fake
    assert fake.unattached() == set(), "an etcd lease was left behind"


def document(node: str = "n1", names: list[str] = NAMES, **changes: Any) -> dict[str, Any]:
    return {
        "endpoints": ["https://192.0.2.11:2379"],
        "config": {"network": "10.244.0.0/16", "backend": {"type": "vxlan", "vni": 1, "port": 8472}},
        "cluster_name": "lab",
        "nodes": [{"name": name, "address": f"192.0.2.{name[1:]}"} for name in names],
        "node": node,
        **changes,
    }


def subnets(ensured: overlay_lease.Ensured) -> dict[str | None, str]:
    return {lease["name"]: lease["subnet"] for lease in ensured.leases}


def key(third: int) -> str:
    return f"{PREFIX}/subnets/10.244.{third}.0-24"
