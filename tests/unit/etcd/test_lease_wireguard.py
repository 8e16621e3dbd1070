# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases of backend wireguard, whose nodes tell their keys one after another, against an etcd in memory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from tests.unit.etcd.fake_etcd import FakeEtcd
from tests.unit.etcd.lease_store import PREFIX, document, etcd, key

__all__ = ["etcd"]


def public_key(number: int) -> str:
    return base64.b64encode(bytes([number] * 32)).decode()


PSK = public_key(99)


def encrypted(own: int, known: dict[int, str], **changes: Any) -> dict[str, Any]:
    """Nodes n1 to n3, those in ``known`` with their keys."""
    made = document(f"n{own}", ["n1", "n2", "n3"], **changes)
    made["config"] = {"network": "10.244.0.0/16", "backend": {"type": "wireguard", "psk": PSK}}
    for number, node in enumerate(made["nodes"], 1):
        if number in known:
            node["public_key"] = known[number]
    return made


KEYS = {number: public_key(number) for number in (1, 2, 3)}


def test_node_gets_its_lease_with_its_key(etcd: FakeEtcd) -> None:
    first = overlay_lease.ensure(encrypted(1, {1: KEYS[1], 2: KEYS[2]}), check=False)
    found = [(lease["name"], lease["public_key"], lease["listen_port"]) for lease in first.leases]
    assert found == [("n1", KEYS[1], 51820), ("n2", KEYS[2], 51820)]
    value = etcd.entries[key(1)].value
    assert f'"BackendType":"wireguard","BackendData":{{"PublicKey":"{KEYS[1]}","Port":51820}}' in value
    assert PSK not in str(first.outcome.operations[0]) and PSK not in json.dumps(first.leases)
    assert json.loads(etcd.entries[f"{PREFIX}/config"].value)["Backend"]["PSK"] == PSK
    second = overlay_lease.ensure(encrypted(3, {3: KEYS[3]}), check=False)
    assert [lease["name"] for lease in second.leases] == ["n1", "n2", "n3"], "n1 and n2 were not part of that run"
    assert not second.orphaned
    assert not overlay_lease.ensure(encrypted(1, KEYS), check=False).outcome.changed


def test_new_key_and_new_address_keep_the_subnet(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(encrypted(1, KEYS), check=False)
    rekeyed = overlay_lease.ensure(encrypted(2, {**KEYS, 2: public_key(22)}), check=False)
    assert [(lease["name"], lease["public_key"]) for lease in rekeyed.leases][1] == ("n2", public_key(22))
    moved = encrypted(2, {**KEYS, 2: public_key(22)})
    moved["nodes"][1]["address"] = "192.0.2.77"
    after = overlay_lease.ensure(moved, check=False)
    assert [(lease["name"], lease["address"], lease["subnet"]) for lease in after.leases][1] == (
        "n2",
        "192.0.2.77",
        "10.244.2.0/24",
    )


def test_backend_change_keeps_subnets_and_waits_for_keys(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(document("n1", ["n1", "n2", "n3"]), check=False)
    after = overlay_lease.ensure(encrypted(1, {1: KEYS[1], 2: KEYS[2]}), check=False)
    assert [(lease["name"], lease["subnet"]) for lease in after.leases] == [
        ("n1", "10.244.1.0/24"),
        ("n2", "10.244.2.0/24"),
    ]
    assert '"BackendType":"vxlan"' in etcd.entries[key(3)].value


def test_subnet_of_a_node_that_has_not_told_its_key_is_kept_for_it(etcd: FakeEtcd) -> None:
    early, late = encrypted(2, {2: KEYS[2]}), encrypted(1, KEYS)
    for declared in (early, late):
        declared["nodes"][0]["subnet"] = "10.244.1.0/24"
    assert [lease["subnet"] for lease in overlay_lease.ensure(early, check=False).leases] == ["10.244.2.0/24"]
    after = overlay_lease.ensure(late, check=False)
    assert [(lease["name"], lease["subnet"]) for lease in after.leases][:2] == [
        ("n1", "10.244.1.0/24"),
        ("n2", "10.244.2.0/24"),
    ]


def test_own_key_is_required(etcd: FakeEtcd) -> None:
    with pytest.raises(SpecError, match=r"nodes\[0\].public_key: is required for n1, this node, with backend wire"):
        overlay_lease.ensure(encrypted(1, {2: KEYS[2]}), check=False)
    with pytest.raises(SpecError, match=r"nodes\[1\].public_key: public_key .* is also that of nodes\[0\].public_key"):
        overlay_lease.ensure(encrypted(1, {1: KEYS[1], 2: KEYS[1]}), check=False)


def test_lease_is_renewed_and_released_without_the_others(etcd: FakeEtcd) -> None:
    own = encrypted(1, KEYS)
    overlay_lease.ensure(own, check=False)
    own["nodes"][0]["subnet"] = "10.244.1.0/24"
    assert not overlay_lease.renew(own).changed
    assert overlay_lease.release(encrypted(1, {}), check=False).changed
    assert key(1) not in etcd.entries


def test_what_is_remembered_does_not_depend_on_who_else_was_part_of_the_run(etcd: FakeEtcd) -> None:
    whole, alone = encrypted(1, KEYS), encrypted(1, {1: KEYS[1]})
    saved = overlay_lease.remembered(whole, overlay_lease.ensure(whole, check=False))
    assert saved["nodes"][0] == {**whole["nodes"][0], "subnet": "10.244.1.0/24"}
    assert saved == overlay_lease.remembered(alone, overlay_lease.ensure(alone, check=False))
    assert not overlay_lease.renew(saved).changed


def test_lease_with_a_broken_key_is_left_out_with_a_warning(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(encrypted(1, {1: KEYS[1]}), check=False)
    etcd.put(key(9), '{"PublicIP":"192.0.2.99","BackendType":"wireguard","BackendData":{"PublicKey":"x","Port":1}}')
    ensured = overlay_lease.ensure(encrypted(1, {1: KEYS[1]}), check=False)
    assert [lease["name"] for lease in ensured.leases] == ["n1"]
    assert any("public_key: must be a WireGuard key" in warning for warning in ensured.warnings)


def stored(number: int, data: str, address: str = "") -> str:
    """The lease of a node with broken data of the backend."""
    return f'{{"PublicIP":"{address or f"192.0.2.{number}"}","BackendType":"wireguard","BackendData":{data}}}'


@pytest.mark.parametrize(
    "data", ['{"PublicKey":"x","Port":51820}', "null", '{"Port":51820}', f'{{"PublicKey":"{public_key(0)}"}}', '"x"']
)
def test_broken_lease_of_a_node_that_is_not_part_of_the_run_is_told_and_left_out(data: str, etcd: FakeEtcd) -> None:
    overlay_lease.ensure(encrypted(1, KEYS), check=False)
    etcd.put(key(2), stored(2, data))
    ensured = overlay_lease.ensure(encrypted(1, {1: KEYS[1], 3: KEYS[3]}), check=False)
    assert [lease["name"] for lease in ensured.leases] == ["n1", "n3"] and not ensured.outcome.changed
    (warning,) = ensured.warnings
    assert f"etcd key {key(2)} is of node n2, whose public key is not known here, and left out" in warning
    assert warning.endswith("Run the overlay playbook on n2, which writes it anew")
    repaired = overlay_lease.ensure(encrypted(2, {2: KEYS[2]}), check=False)
    assert [(lease["name"], lease["subnet"]) for lease in repaired.leases][1] == ("n2", "10.244.2.0/24")
    assert not repaired.warnings and f'"PublicKey":"{KEYS[2]}"' in etcd.entries[key(2)].value


def test_what_is_broken_beside_the_key_is_repaired_without_the_node(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(encrypted(1, KEYS), check=False)
    etcd.put(key(2), stored(2, f'{{"PublicKey":"{KEYS[2]}","Port":70000}}'))
    before = etcd.entries[key(2)].value
    alone = encrypted(1, {1: KEYS[1]})
    assert overlay_lease.ensure(alone, check=True).outcome.changed and etcd.entries[key(2)].value == before
    repaired = overlay_lease.ensure(alone, check=False)
    assert [lease["listen_port"] for lease in repaired.leases] == [51820] * 3 and not repaired.warnings
    assert f'"BackendData":{{"PublicKey":"{KEYS[2]}","Port":51820}}' in etcd.entries[key(2)].value
    assert not overlay_lease.ensure(alone, check=False).outcome.changed


def test_port_that_a_node_outside_of_the_run_still_listens_on_stays(etcd: FakeEtcd) -> None:
    overlay_lease.ensure(encrypted(1, KEYS), check=False)
    changed = encrypted(1, {1: KEYS[1]})
    changed["config"]["backend"]["listen_port"] = 4000
    after = overlay_lease.ensure(changed, check=False)
    assert [lease["listen_port"] for lease in after.leases] == [4000, 51820, 51820]


def test_key_that_another_node_has_too_repairs_nothing(etcd: FakeEtcd) -> None:
    """With it, the other node's lease would be taken for a leftover of this one."""
    overlay_lease.ensure(encrypted(1, KEYS), check=False)
    etcd.put(key(2), stored(2, f'{{"PublicKey":"{KEYS[3]}","Port":70000}}'))
    entries = {name: entry.value for name, entry in etcd.entries.items()}
    ensured = overlay_lease.ensure(encrypted(1, {1: KEYS[1]}), check=False)
    assert {name: entry.value for name, entry in etcd.entries.items()} == entries
    assert [lease["name"] for lease in ensured.leases] == ["n1", "n3"] and ensured.warnings


def test_of_a_lease_with_a_broken_ipv6_key_the_whole_other_half_is_handed_on(etcd: FakeEtcd) -> None:
    declared = encrypted(1, {1: KEYS[1]})
    declared["config"]["network6"] = "fd00:10:244::/56"
    for number, node in enumerate(declared["nodes"], 1):
        node["address6"] = f"2001:db8::{number}"
    data = f'"BackendData":{{"PublicKey":"{KEYS[3]}","Port":1}},"BackendV6Data":{{"PublicKey":"x","Port":1}}'
    value = f'{{"PublicIP":"192.0.2.99","PublicIPv6":"2001:db8::99","BackendType":"wireguard",{data}}}'
    etcd.put(f"{key(9)}&fd00:10:244:9::-64", value)
    found = overlay_lease.ensure(declared, check=False).leases[-1]
    assert {name: found[name] for name in found if found[name]} == {
        "subnet": "10.244.9.0/24",
        "address": "192.0.2.99",
        "public_key": KEYS[3],
        "listen_port": 1,
        "backend_type": "wireguard",
    }
