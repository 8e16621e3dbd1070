# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of nodes in one call against a real etcd: how often it is asked, how much at once, and what is there."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_overlay_lease import Store, store, subnet_key

__all__ = ["store"]

# Etcd's own limits: --max-txn-ops, and a small part of the 1.5 MiB of --max-request-bytes.
OPERATIONS, BYTES = 128, 256 * 1024
SCRIPT = """
import collections, json, sys
from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd import gateway
calls, operations, size = collections.Counter(), [0], [0]
send = gateway.Gateway.post
def post(self, path, body):
    calls[path] += 1
    operations.append(len(body.get("success", [])))
    size.append(len(json.dumps(body)))
    return send(self, path, body)
gateway.Gateway.post = post
document = json.load(sys.stdin)
if sys.argv[1] == "gather":
    leases = overlay_lease.gather(document).leases
else:
    leases = getattr(overlay_lease, sys.argv[1])(document, False)
    leases = getattr(leases, "leases", [])
print(json.dumps({"calls": calls, "operations": max(operations), "bytes": max(size), "leases": leases}))
"""


def ask(store: Store, verb: str, document: dict[str, Any]) -> dict[str, Any]:
    command = ["env", f"PYTHONPATH={Path.cwd() / 'collections'}", sys.executable, "-c", SCRIPT, verb]
    found: dict[str, Any] = json.loads(store.namespace.run(command, data=json.dumps(document), timeout=300).stdout)
    assert found["operations"] <= OPERATIONS
    assert found["bytes"] <= BYTES
    return found


def declared(store: Store, count: int, node: str = "n0") -> dict[str, Any]:
    nodes = [{"name": f"n{index}", "address": f"192.168.{index // 250}.{index % 250 + 1}"} for index in range(count)]
    config = {"network": "10.0.0.0/8", "subnet_len": 24, "backend": {"type": "vxlan", "vni": 1, "port": 8472}}
    return {**store.arguments(node, config=config), "nodes": nodes}


def test_a_thousand_nodes_take_a_dozen_writes(store: Store) -> None:
    found = ask(store, "ensure", declared(store, 1000))
    assert found["calls"] == {"kv/range": 2, "lease/grant": 2, "kv/txn": 11, "lease/timetolive": 1}
    assert len(store.etcd.contents()) == 1001
    assert len(store.etcd.leases()) == 2
    again = ask(store, "ensure", declared(store, 1000))
    assert again["calls"] == {"kv/range": 1, "lease/timetolive": 1}
    more = ask(store, "ensure", declared(store, 1001))
    assert more["calls"] == {"kv/range": 2, "lease/grant": 1, "kv/txn": 1, "lease/timetolive": 2}
    assert len(store.etcd.contents()) == 1002


def test_nodes_that_start_at_once_agree_and_leave_no_stray_leases(store: Store) -> None:
    names = [f"n{number}" for number in range(1, 131)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda node: ask(store, "ensure", store.arguments(node, names)), names[:4]))
    subnets = [{lease["name"]: lease["subnet"] for lease in result["leases"]} for result in results]
    assert subnets == [{f"n{number}": f"10.244.{number}.0/24" for number in range(1, 131)}] * 4
    attached = [store.etcd.lease_of(subnet_key(number)) for number in range(1, 131)]
    # Each of the four has its own; the others hang together.
    assert all(attached.count(lease) == 1 for lease in attached[:4])
    assert store.etcd.leases() == set(attached)


def test_nodes_of_a_thousand_take_their_own_at_once(store: Store) -> None:
    """All get through at the first try, and what they leave behind still holds the other keys."""
    ask(store, "ensure", declared(store, 1000))
    names = [f"n{number}" for number in range(1, 9)]
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda node: ask(store, "ensure", declared(store, 1000, node)), names))
    assert {each["calls"]["kv/txn"] for each in found} == {1}
    assert len(store.etcd.leases()) == 10
    assert len(store.etcd.contents()) == 1001


@pytest.mark.slow
def test_twenty_thousand_leases_are_listed_page_by_page(store: Store) -> None:
    found = ask(store, "ensure", declared(store, 20000))
    assert len(found["leases"]) == 20000
    assert len({lease["subnet"] for lease in found["leases"]}) == 20000
    assert sum(found["calls"].values()) < 250
    again = ask(store, "ensure", declared(store, 20000))
    assert again["calls"] == {"kv/range": 5, "lease/timetolive": 1}
    assert again["leases"] == [
        {**lease, "ttl": again["leases"][index]["ttl"]} for index, lease in enumerate(found["leases"])
    ]
