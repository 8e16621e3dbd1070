# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Leases of dual stack against a real etcd: flannel's keys and values, the way there and back, many, renewal."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from tests.kernel.conftest import RunModule
from tests.kernel.test_overlay_lease import CONFIG, FOREIGN, NAMES, PREFIX, Runtime, Store, runtime, store, subnet_key
from tests.kernel.test_overlay_lease_many import ask, declared

__all__ = ["runtime", "store"]

DUAL = {**CONFIG, "network6": "fd00:10:244::/48"}


def nodes(names: list[str] = NAMES) -> list[dict[str, str]]:
    return [
        {"name": name, "address": f"192.0.2.{11 + index}", "address6": f"2001:db8::{11 + index}"}
        for index, name in enumerate(names)
    ]


def run(store: Store, node: str = "cp1", **changes: Any) -> dict[str, Any]:
    return store.run(node, **{"config": DUAL, "nodes": nodes(), **changes})


def dual_key(third: int) -> str:
    return f"{subnet_key(third)}&fd00:10:244:{third:x}::-64"


def value(name: str, index: int) -> str:
    """What flanneld writes for a node, byte for byte."""
    return (
        f'{{"PublicIP":"192.0.2.{11 + index}","PublicIPv6":"2001:db8::{11 + index}","BackendType":"vxlan",'
        f'"BackendData":{{"VNI":1,"VtepMAC":"{vtep_mac("lab", name)}"}},'
        f'"BackendV6Data":{{"VNI":1,"VtepMAC":"{vtep_mac("lab", name, IPV6)}"}}}}'
    )


def leases(store: Store) -> dict[str, str]:
    return store.etcd.contents(f"{PREFIX}/subnets/")


def test_dual_stack_keys_and_values_are_flannels_and_hang_on_leases_of_a_day(store: Store) -> None:
    result = run(store, "w1")
    assert store.etcd.contents() == {
        f"{PREFIX}/config": (
            '{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0",'
            '"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetLen":64,"IPv6SubnetMin":"fd00:10:244:1::",'
            '"IPv6SubnetMax":"fd00:10:244:ffff::","Backend":{"Type":"vxlan","VNI":1,"Port":8472}}'
        ),
        **{dual_key(index + 1): value(name, index) for index, name in enumerate(NAMES)},
    }
    for third in (1, 2, 3):
        shown = store.etcd.etcdctl("lease", "timetolive", store.etcd.lease_of(dual_key(third))).stdout
        assert "granted with TTL(86400s)" in shown
    own = result["own"]
    assert (own["subnet6"], own["address6"]) == ("fd00:10:244:3::/64", "2001:db8::13")
    assert own["mac6"] == vtep_mac("lab", "w1", IPV6) and own["mac"] == vtep_mac("lab", "w1")
    revision = store.etcd.revision()
    assert not run(store, "w1")["changed"]
    assert store.etcd.revision() == revision


def test_cluster_goes_to_dual_stack_and_back_and_no_node_is_ever_without_its_lease(store: Store) -> None:
    for name in NAMES:
        store.run(name)
    before = {key: (text, store.etcd.lease_of(key)) for key, text in leases(store).items()}
    for change, keys in (
        ({"config": DUAL, "nodes": nodes()}, [dual_key(third) for third in (1, 2, 3)]),
        ({}, [subnet_key(third) for third in (1, 2, 3)]),
    ):
        old, since = list(leases(store)), store.etcd.revision()
        predicted = store.run("cp2", check=True, **change)
        assert store.etcd.revision() == since
        assert store.run("cp2", **change)["operations"] == predicted["operations"]
        assert sorted(leases(store)) == keys
        # One transaction, in which flanneld is told of each old key's end before the new key's beginning.
        assert store.etcd.revision() == since + 1
        told = store.etcd.told(f"{PREFIX}/subnets/", since, 6)
        for gone, come in zip(old, keys, strict=True):
            assert told.index(("DELETE", gone)) < told.index(("PUT", come))
        assert not store.run("cp1", **change)["changed"] or store.etcd.revision() == since + 1
    # Each on the etcd lease that it had at first.
    assert {key: (text, store.etcd.lease_of(key)) for key, text in leases(store).items()} == before


def test_peer_of_flanneld_with_one_family_stays_as_it_is(store: Store) -> None:
    store.etcd.etcdctl("put", subnet_key(2), FOREIGN)
    result = run(store, "cp1")
    assert leases(store)[subnet_key(2)] == FOREIGN
    # The first free ones of each family.
    assert [(lease["subnet"], lease.get("subnet6")) for lease in result["leases"]] == [
        ("10.244.1.0/24", "fd00:10:244:1::/64"),
        ("10.244.2.0/24", None),
        ("10.244.3.0/24", "fd00:10:244:2::/64"),
        ("10.244.4.0/24", "fd00:10:244:3::/64"),
    ]
    assert f"{subnet_key(2)} (192.0.2.50) has no IPv6 subnet" in json.dumps(result["warnings"])


def test_range_length_and_pinned_subnets_are_kept_to(store: Store) -> None:
    config = {**DUAL, "subnet6_len": 80, "subnet6_min": "fd00:10:244:9:1::", "subnet6_max": "fd00:10:244:9:3::"}
    wanted = nodes()
    wanted[0]["subnet6"] = "fd00:10:244:9:3::/80"
    run(store, config=config, nodes=wanted)
    assert [key.partition("&")[2] for key in leases(store)] == [f"fd00:10:244:9:{last}::-80" for last in (3, 1, 2)]
    full = run(store, config={**config, "subnet6_max": "fd00:10:244:9:2::"}, nodes=wanted[1:] + nodes()[:1], fails=True)
    assert "no subnet is left for cp1: each /80 from fd00:10:244:9:1:: to fd00:10:244:9:2::" in full["msg"]


def test_what_cannot_be_is_refused_and_nothing_is_written(store: Store) -> None:
    alone = run(store, config={"network6": "fd00::/48", "backend": CONFIG["backend"]}, fails=True)
    assert alone["msg"].startswith("config.network: is required") and "overlay_network directly" in alone["msg"]
    wanted = nodes()
    del wanted[2]["address6"]
    half = run(store, nodes=wanted, fails=True)
    assert half["msg"].startswith("nodes[2].address6: is required for node w1")
    assert store.etcd.contents() == {}
    run(store)
    before = store.etcd.contents()
    other = run(store, config={**DUAL, "network6": "fd99::/48"}, fails=True)
    assert other["msg"].startswith(
        "config.network6: is fd99::/48, but below /coreos.com/network etcd has network fd00:"
    )
    assert store.etcd.contents() == before


def test_host_gw_and_permanent_leases(store: Store) -> None:
    run(store, config={**DUAL, "backend": {"type": "host-gw"}}, ttl=0)
    values = [f'{{"PublicIP":"192.0.2.{last}","PublicIPv6":"2001:db8::{last}",' for last in (11, 12, 13)]
    assert list(leases(store).values()) == [f'{text}"BackendType":"host-gw"}}' for text in values]
    assert store.etcd.leases() == set()
    store.run(ttl=0)
    assert list(leases(store)) == [subnet_key(third) for third in (1, 2, 3)] and store.etcd.leases() == set()


def test_dual_stack_absent_takes_the_lease_of_one_node(store: Store) -> None:
    run(store, "w1")
    count = len(store.etcd.leases())
    assert run(store, "w1", state="absent")["changed"]
    assert list(leases(store)) == [dual_key(1), dual_key(2)] and len(store.etcd.leases()) == count - 1
    assert not run(store, "w1", state="absent")["changed"]


def test_gathered_shows_both_families(store: Store, run_module: RunModule) -> None:
    run(store)
    asked = {"state": "gathered", "endpoints": store.etcd.endpoints, **store.etcd.tls}
    listed = run_module("overlay_lease", asked, netns=store.namespace)["leases"]
    assert [lease["subnet6"] for lease in listed] == [f"fd00:10:244:{third}::/64" for third in (1, 2, 3)]


def many(store: Store, count: int, node: str = "n0", **config: Any) -> dict[str, Any]:
    made = declared(store, count, node)
    for index, entry in enumerate(made["nodes"]):
        entry["address6"] = f"2001:db8::{index + 1:x}"
    made["config"] |= config
    return made


def test_a_thousand_nodes_take_a_dozen_writes_and_go_to_dual_stack_in_twice_as_many(store: Store) -> None:
    """Of a network with 2^56 subnets, a half of which somebody holds."""
    wide = json.dumps({**json.loads(FOREIGN), "PublicIPv6": "2001:db8:1::1"})
    store.etcd.etcdctl("put", f"{PREFIX}/subnets/10.255.255.0-24&fd00::-9", wide)
    found = ask(store, "ensure", many(store, 1000, network6="fd00::/8"))
    assert found["calls"] == {"kv/range": 2, "lease/grant": 2, "kv/txn": 11, "lease/timetolive": 1}
    assert len({lease["subnet6"] for lease in found["leases"] if lease["name"]}) == 1000
    assert found["leases"][0]["subnet6"] == "fd80::/64"
    again = ask(store, "ensure", many(store, 1000, network6="fd00::/8"))
    assert again["calls"] == {"kv/range": 1, "lease/timetolive": 1}
    store.etcd.etcdctl("del", "--prefix", f"{PREFIX}/")
    ask(store, "ensure", many(store, 1000))
    there = ask(store, "ensure", many(store, 1000, network6="fd00:10::/32"))
    assert there["calls"]["kv/txn"] == 21 and sum(there["calls"].values()) < 60
    assert len(store.etcd.contents(f"{PREFIX}/subnets/")) == 1000
    assert [lease["subnet"] for lease in there["leases"]] == [f"10.0.{1 + index}.0/24" for index in range(255)] + [
        f"10.{(1 + index) // 256}.{(1 + index) % 256}.0/24" for index in range(255, 1000)
    ]


def test_nodes_that_go_to_dual_stack_at_once_agree(store: Store) -> None:
    names = [f"n{number}" for number in range(1, 131)]
    plain = store.arguments("n1", names)
    for name in names[:4]:
        ask(store, "ensure", {**plain, "node": name})
    held = {key: store.etcd.lease_of(key) for key in map(subnet_key, range(1, 5))}
    wanted = {**plain, "config": DUAL, "nodes": nodes(names)}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda name: ask(store, "ensure", {**wanted, "node": name}), names[:4]))
    expected = {f"n{number}": f"fd00:10:244:{number:x}::/64" for number in range(1, 131)}
    assert [{lease["name"]: lease["subnet6"] for lease in result["leases"]} for result in results] == [expected] * 4
    assert sorted(leases(store)) == sorted(map(dual_key, range(1, 131)))
    assert [store.etcd.lease_of(dual_key(number)) for number in range(1, 5)] == list(held.values())
    assert store.etcd.leases() == {store.etcd.lease_of(dual_key(number)) for number in range(1, 6)}


def test_renewal_takes_both_subnets_again(runtime: Runtime) -> None:
    store = runtime.store
    run(store, "w1")
    revision = store.etcd.revision()
    done = runtime.renew()
    assert (done.returncode, done.stdout, done.stderr, store.etcd.revision()) == (0, "", "", revision)
    store.etcd.etcdctl("lease", "revoke", store.etcd.lease_of(dual_key(3)))
    assert runtime.renew("--check").stdout.startswith("+ lease 10.244.3.0/24&fd00:10:244:3::/64 of 192.0.2.13&2001:db8")
    assert runtime.renew().returncode == 0
    assert leases(store)[dual_key(3)] == value("w1", 2)


def test_renewal_never_takes_an_ipv6_subnet_that_became_somebody_elses(runtime: Runtime) -> None:
    store = runtime.store
    run(store, "w1")
    store.etcd.etcdctl("del", dual_key(3))
    taken = f"{subnet_key(9)}&fd00:10:244:3::-64"
    store.etcd.etcdctl("put", taken, FOREIGN)
    done = runtime.renew()
    assert done.returncode == 2
    assert "fd00:10:244:3::/64 is leased to 192.0.2.50" in done.stderr
    assert dual_key(3) not in leases(store) and leases(store)[taken] == FOREIGN


@pytest.mark.parametrize("knows", ["IPv4", "dual"])
def test_renewal_of_a_node_that_does_not_know_yet_leaves_the_lease_where_it_is(runtime: Runtime, knows: str) -> None:
    """Another node has taken all leases to dual stack, or back. Its etcd lease is then the one that is kept alive."""
    store = runtime.store
    other = {"config": DUAL, "nodes": nodes()}
    store.run("w1", **(other if knows == "dual" else {}))
    # Another node runs: as from another machine, so that this one's memory stays as it is.
    moving = {**store.arguments("cp1"), **({} if knows == "dual" else other)}
    ask(store, "ensure", moving)
    key = subnet_key(3) if knows == "dual" else dual_key(3)
    assert key in leases(store)
    granted = store.etcd.etcdctl("lease", "grant", "100").stdout.split()[1]
    store.etcd.etcdctl("put", f"--lease={granted}", key, leases(store)[key])
    before = leases(store)
    done = runtime.renew()
    assert (done.returncode, done.stderr) == (0, "")
    assert leases(store) == before
    shown = store.etcd.etcdctl("lease", "timetolive", store.etcd.lease_of(key)).stdout
    assert "granted with TTL(86400s)" in shown
