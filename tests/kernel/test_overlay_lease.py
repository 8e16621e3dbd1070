# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module overlay_lease and command ``fairlead renew`` against a real etcd; what is there is read with etcdctl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.lease import vtep_mac
from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import build
from tests.kernel.conftest import RunModule
from tests.kernel.etcd_server import ANSWER_SECONDS, Cluster, cluster
from tests.kernel.namespaces import Namespace, Namespaces

PREFIX = "/coreos.com/network"
NAMES = ["cp1", "cp2", "w1"]
CONFIG = {"network": "10.244.0.0/16", "subnet_len": 24, "backend": {"type": "vxlan", "vni": 1, "port": 8472}}
FOREIGN = (
    '{"PublicIP":"192.0.2.50","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"66:3b:ef:92:63:92"}}'
)


class Store:
    """One etcd in a namespace, and the module as it runs on each of several nodes."""

    def __init__(self, etcd: Cluster, namespace: Namespace, run_module: RunModule) -> None:
        self.etcd, self.namespace, self._run_module = etcd, namespace, run_module

    def arguments(self, node: str = "cp1", names: list[str] = NAMES, **changes: Any) -> dict[str, Any]:
        return {
            "endpoints": self.etcd.endpoints,
            **self.etcd.tls,
            "timeout": ANSWER_SECONDS,
            "config": {
                "network": "10.244.0.0/16",
                "subnet_len": 24,
                "backend": {"type": "vxlan", "vni": 1, "port": 8472},
            },
            "cluster_name": "lab",
            "nodes": [{"name": name, "address": f"192.0.2.{11 + index}"} for index, name in enumerate(names)],
            "node": node,
            **changes,
        }

    def run(self, node: str = "cp1", *, check: bool = False, fails: bool = False, **changes: Any) -> dict[str, Any]:
        arguments = self.arguments(node, **changes)
        return self._run_module("overlay_lease", arguments, netns=self.namespace, check=check, fails=fails)

    def value(self, name: str, index: int) -> str:
        """What flanneld writes for a node, byte for byte."""
        return (
            f'{{"PublicIP":"192.0.2.{11 + index}","PublicIPv6":null,"BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{vtep_mac("lab", name)}"}}}}'
        )


@pytest.fixture
def store(netns: Namespaces, run_module: RunModule, tmp_path: Path) -> Iterator[Store]:
    namespace = netns("etcd")
    with cluster(namespace, tmp_path) as etcd:
        yield Store(etcd, namespace, run_module)


def subnet_key(third: int) -> str:
    return f"{PREFIX}/subnets/10.244.{third}.0-24"


def test_keys_and_values_are_flannels_and_hang_on_leases_of_a_day(store: Store) -> None:
    result = store.run("w1")
    assert store.etcd.contents() == {
        f"{PREFIX}/config": (
            '{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0",'
            '"Backend":{"Type":"vxlan","VNI":1,"Port":8472}}'
        ),
        subnet_key(1): store.value("cp1", 0),
        subnet_key(2): store.value("cp2", 1),
        subnet_key(3): store.value("w1", 2),
    }
    assert int(store.etcd.lease_of(f"{PREFIX}/config"), 16) == 0
    for third in (1, 2, 3):
        shown = store.etcd.etcdctl("lease", "timetolive", store.etcd.lease_of(subnet_key(third))).stdout
        assert "granted with TTL(86400s)" in shown
    assert result["own"]["subnet"] == "10.244.3.0/24"
    assert 86390 <= result["own"]["ttl"] <= 86400
    assert [peer["name"] for peer in result["peers"]] == ["cp1", "cp2"]


def test_backend_changes_and_every_node_keeps_its_subnet(store: Store) -> None:
    """Values are what a real flanneld of that backend writes."""
    store.run("w1")
    config = {**CONFIG, "backend": {"type": "host-gw"}}
    result = store.run("w1", config=config)
    head = '{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.1.0","SubnetMax":"10.244.255.0",'
    values = [f'{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"BackendType":"host-gw"}}' for last in (11, 12, 13)]
    assert store.etcd.contents() == {
        f"{PREFIX}/config": head + '"Backend":{"Type":"host-gw"}}',
        **{subnet_key(third): value for third, value in enumerate(values, 1)},
    }
    assert [(peer["name"], peer["backend_type"], peer["mac"]) for peer in result["peers"]] == [
        ("cp1", "host-gw", ""),
        ("cp2", "host-gw", ""),
    ]
    assert not store.run("w1", config=config)["changed"]
    store.run("w1")
    assert [store.etcd.contents()[subnet_key(third)] for third in (1, 2, 3)] == [
        store.value(name, index) for index, name in enumerate(NAMES)
    ]


def test_peers_of_another_backend_are_not_handed_on(store: Store) -> None:
    store.etcd.etcdctl("put", subnet_key(7), FOREIGN)
    result = store.run("w1", config={**CONFIG, "backend": {"type": "host-gw"}})
    assert [peer["name"] for peer in result["peers"]] == ["cp1", "cp2"]
    assert store.etcd.contents()[subnet_key(7)] == FOREIGN


def test_second_run_of_each_node_writes_nothing(store: Store) -> None:
    store.run("cp1")
    for name in NAMES:
        # The first run on a node remembers its document there; the node's second run is the one that counts.
        store.run(name)
    revision, leases = store.etcd.revision(), store.etcd.leases()
    assert not store.run("w1")["changed"]
    assert (store.etcd.revision(), store.etcd.leases()) == (revision, leases)


def test_check_mode_writes_nothing_and_says_what_a_run_does(store: Store) -> None:
    predicted = store.run("w1", check=True)
    assert store.etcd.contents() == {}
    assert store.etcd.leases() == set()
    real = store.run("w1")
    assert (predicted["changed"], predicted["operations"]) == (True, real["operations"])
    assert predicted["own"]["subnet"] == real["own"]["subnet"]


def test_peer_of_flanneld_is_left_alone_and_listed(store: Store) -> None:
    store.etcd.etcdctl("put", subnet_key(2), FOREIGN)
    result = store.run("cp1")
    assert store.etcd.contents()[subnet_key(2)] == FOREIGN
    assert store.etcd.contents()[subnet_key(3)] == store.value("cp2", 1)
    assert [lease for lease in result["leases"] if lease["name"] is None] == [
        {
            "name": None,
            "subnet": "10.244.2.0/24",
            "address": "192.0.2.50",
            "mac": "66:3b:ef:92:63:92",
            "backend_type": "vxlan",
            "ttl": 0,
        }
    ]


def test_range_and_length_of_subnets_are_kept_to(store: Store) -> None:
    config = {**CONFIG, "subnet_len": 26, "subnet_min": "10.244.9.64", "subnet_max": "10.244.9.192"}
    store.run("cp1", config=config)
    assert sorted(store.etcd.contents(f"{PREFIX}/subnets/")) == [
        f"{PREFIX}/subnets/10.244.9.{last}-26" for last in (128, 192, 64)
    ]
    four = [{"name": f"n{number}", "address": f"192.0.2.{number}"} for number in range(61, 65)]
    full = store.run("n61", config=config, nodes=four, fails=True)
    assert "nodes[0]: no subnet is left for n61" in full["msg"]


def test_permanent_leases_hang_on_no_etcd_lease(store: Store) -> None:
    assert store.run("cp1", ttl=0)["own"]["ttl"] == 0
    assert store.etcd.leases() == set()
    assert len(store.etcd.contents()) == 4


def test_leases_in_each_others_way_are_told_and_left(store: Store) -> None:
    store.run("cp1")
    granted = store.etcd.etcdctl("lease", "grant", "600").stdout.split()[1]
    wide = f"{PREFIX}/subnets/10.244.64.0-19"
    store.etcd.etcdctl("put", f"--lease={granted}", subnet_key(70), FOREIGN)
    store.etcd.etcdctl("put", wide, FOREIGN)
    store.etcd.etcdctl("put", subnet_key(200), "broken")
    before = store.etcd.contents()
    result = store.run("cp1")
    assert [(orphan["key"], orphan["address"]) for orphan in result["orphaned"]] == [
        (wide, "192.0.2.50"),
        (subnet_key(70), "192.0.2.50"),
        (subnet_key(200), ""),
    ]
    assert [orphan["ttl"] for orphan in result["orphaned"][::2]] == [0, 0]
    assert 500 < result["orphaned"][1]["ttl"] <= 600
    assert [conflict["keys"] for conflict in result["conflicts"]] == [
        [subnet_key(200)],
        [wide],
        [wide, subnet_key(70)],
        [wide, subnet_key(70)],
        [wide, subnet_key(70)],
    ]
    shown = json.dumps(result["warnings"])
    assert all(key in shown for key in (wide, subnet_key(70), subnet_key(200))), shown
    assert store.etcd.contents() == before


def test_changed_address_is_written_under_the_same_lease(store: Store) -> None:
    store.run("cp1")
    lease = store.etcd.lease_of(subnet_key(3))
    nodes = store.arguments()["nodes"]
    nodes[2]["address"] = "192.0.2.99"
    store.run("cp1", nodes=nodes)
    assert json.loads(store.etcd.contents()[subnet_key(3)])["PublicIP"] == "192.0.2.99"
    assert store.etcd.lease_of(subnet_key(3)) == lease


def test_other_network_is_refused_and_nothing_changes(store: Store) -> None:
    store.run("cp1")
    before = store.etcd.contents()
    config = {**CONFIG, "network": "10.99.0.0/16"}
    failed = store.run("cp1", config=config, fails=True)
    assert failed["msg"].startswith("config.network: is 10.99.0.0/16, but below /coreos.com/network etcd has network")
    assert store.etcd.contents() == before


def test_absent_takes_the_lease_of_one_node(store: Store) -> None:
    store.run("w1")
    leases = store.etcd.leases()
    assert store.run("w1", state="absent")["changed"]
    assert subnet_key(3) not in store.etcd.contents()
    assert len(store.etcd.leases()) == len(leases) - 1
    assert not store.run("w1", state="absent")["changed"]


def test_dead_endpoints_are_passed_over(store: Store) -> None:
    dead = ["https://127.0.0.99:2379", "http://127.0.0.11:2380"]
    assert store.run("w1", endpoints=[*dead, *store.etcd.endpoints], timeout=2)["own"]["subnet"] == "10.244.3.0/24"
    failed = store.run("w1", endpoints=dead, timeout=2, fails=True)
    assert "no etcd endpoint answers: https://127.0.0.99:2379: [Errno 111] Connection refused" in failed["msg"]


def test_server_of_another_authority_is_not_trusted(store: Store) -> None:
    failed = store.run("w1", ca_file=str(store.etcd.pki / "etcd-peer-ca.crt"), fails=True)
    assert "its certificate is not valid here" in failed["msg"]
    assert store.etcd.contents() == {}


def test_nobody_gets_in_without_a_client_certificate(store: Store) -> None:
    failed = store.run("w1", cert_file=None, key_file=None, fails=True)
    assert "no etcd endpoint answers" in failed["msg"]
    peer = {name: str(store.etcd.pki / f"etcd-peer.{name[:3]}") for name in ("crt", "key")}
    failed = store.run("w1", cert_file=peer["crt"], key_file=peer["key"], fails=True)
    assert "no etcd endpoint answers" in failed["msg"]


def test_gathered_shows_all_with_their_time(store: Store, run_module: RunModule) -> None:
    store.run("cp1")
    asked = {"state": "gathered", "endpoints": store.etcd.endpoints, **store.etcd.tls}
    listed = run_module("overlay_lease", asked, netns=store.namespace)["leases"]
    assert [lease["subnet"] for lease in listed] == ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]
    assert all(86300 < lease["ttl"] <= 86400 for lease in listed)


class Runtime:
    """The node runtime's tree, unpacked, and its command ``renew`` with a node's saved state."""

    def __init__(self, store: Store, root: Path, directory: Path, state: Path) -> None:
        self.store, self.lib, self.state = store, directory / "lib", state
        for path, (_mode, content) in build(root).files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)

    def renew(self, *options: str) -> subprocess.CompletedProcess[str]:
        program = f"import sys; sys.path.insert(0, {str(self.lib)!r}); from fairlead.agent.renew import main"
        saved = str(self.state / self.store.namespace.name)
        call = f"sys.exit(main({['--desired', saved, *options]!r}))"
        return self.store.namespace.run([sys.executable, "-c", f"{program}; {call}"], check=False)


@pytest.fixture
def runtime(store: Store, root_dir: Path, tmp_path: Path, state_dir: Path) -> Runtime:
    return Runtime(store, root_dir, tmp_path / "runtime", state_dir)


def test_renew_finds_nothing_to_do_while_time_is_left(runtime: Runtime) -> None:
    runtime.store.run("w1")
    revision = runtime.store.etcd.revision()
    done = runtime.renew()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert runtime.store.etcd.revision() == revision


def test_renew_gives_a_lease_that_ends_its_full_time(runtime: Runtime) -> None:
    runtime.store.run("w1")
    granted = runtime.store.etcd.etcdctl("lease", "grant", "100").stdout.split()[1]
    runtime.store.etcd.etcdctl("put", f"--lease={granted}", subnet_key(3), runtime.store.value("w1", 2))
    assert runtime.renew().returncode == 0
    shown = runtime.store.etcd.etcdctl("lease", "timetolive", runtime.store.etcd.lease_of(subnet_key(3))).stdout
    assert "granted with TTL(86400s)" in shown
    assert granted not in runtime.store.etcd.leases()


def test_renew_takes_an_expired_lease_again(runtime: Runtime) -> None:
    runtime.store.run("w1")
    runtime.store.etcd.etcdctl("lease", "revoke", runtime.store.etcd.lease_of(subnet_key(3)))
    assert runtime.renew("--check").stdout.startswith("+ lease 10.244.3.0/24 of 192.0.2.13")
    assert subnet_key(3) not in runtime.store.etcd.contents()
    assert runtime.renew().returncode == 0
    assert runtime.store.etcd.contents()[subnet_key(3)] == runtime.store.value("w1", 2)


def test_renew_never_takes_what_became_somebody_elses(runtime: Runtime) -> None:
    runtime.store.run("w1")
    runtime.store.etcd.etcdctl("put", subnet_key(3), FOREIGN)
    done = runtime.renew()
    assert done.returncode == 2
    assert "10.244.3.0/24 is leased to 192.0.2.50" in done.stderr
    assert runtime.store.etcd.contents()[subnet_key(3)] == FOREIGN


def test_renew_without_a_saved_lease_is_no_error(runtime: Runtime) -> None:
    assert runtime.renew().returncode == 0


def test_renew_tells_when_etcd_is_away(runtime: Runtime) -> None:
    runtime.store.run("w1")
    runtime.store.etcd.kill("m1")
    done = runtime.renew()
    assert done.returncode == 1
    assert "no etcd endpoint answers" in done.stderr


def test_lease_is_extended_in_place_after_half_of_its_time(store: Store) -> None:
    script = """
import json, sys
from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_lease
from ansible_collections.fairlead.cluster.plugins.module_utils._etcd.gateway import Gateway
post, renewed = Gateway.post, []
def at_another_time(self, path, body):
    answer = post(self, path, body)
    renewed.extend([path] if path == "lease/keepalive" else [])
    return {**answer, "TTL": sys.argv[1]} if path == "lease/timetolive" and not renewed else answer
Gateway.post = at_another_time
outcome = overlay_lease.ensure(json.load(sys.stdin), False).outcome
print(json.dumps([str(operation) for operation in outcome.operations]))
"""
    document = json.dumps({**store.arguments("w1"), "ttl": 86400})

    def ensure(remaining: int) -> list[str]:
        """Operations of a run at a time when so many seconds remain of an etcd lease, until it renews it."""
        command = ["env", f"PYTHONPATH={Path.cwd() / 'collections'}", sys.executable, "-c", script, str(remaining)]
        operations: list[str] = json.loads(store.namespace.run(command, data=document).stdout)
        return operations

    assert ensure(86400) != []
    lease, revision, leases = store.etcd.lease_of(subnet_key(3)), store.etcd.revision(), store.etcd.leases()
    assert ensure(43200) == [] and store.etcd.renewals() == 0
    assert len(ensure(43199)) == 1
    assert (store.etcd.lease_of(subnet_key(3)), store.etcd.revision()) == (lease, revision)
    assert store.etcd.renewals() == 1 and store.etcd.leases() == leases
