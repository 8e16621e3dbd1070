# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Module etcd_member and our certificates against a real cluster of three; compared with what etcdctl says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import RunModule
from tests.kernel.etcd_server import ANSWER_SECONDS, Cluster, cluster
from tests.kernel.namespaces import Namespaces
from tests.waiting import wait_until

HANDSHAKE = """
import socket, ssl, sys
address, port, ca, certificate, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(certificate, key)
plain = socket.create_connection((address, int(port)), 30)
with context.wrap_socket(plain, server_hostname=address) as tls:
    tls.settimeout(30)
    tls.sendall(b"GET /version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    sys.exit(0 if tls.recv(100) else 1)
"""


@pytest.fixture
def etcd(netns: Namespaces, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(netns("etcd"), tmp_path, 3) as made:
        yield made


Found = dict[str, dict[str, Any]]


def gather(etcd: Cluster, run_module: RunModule, timeout: int = ANSWER_SECONDS) -> Found:
    asked = {"state": "gathered", "members": etcd.members, "timeout": timeout, **etcd.tls}
    result = run_module("etcd_member", asked, netns=etcd.namespace)
    assert result["changed"] is False
    leaders = [member["name"] for member in result["members"] if member["leader"]]
    assert leaders == ([result["leader"]] if result["leader"] else [])
    return {member["name"]: member for member in result["members"]}


def gather_until(
    holds: Callable[[Found], bool], what: str, etcd: Cluster, run_module: RunModule, timeout: int = ANSWER_SECONDS
) -> Found:
    """What was found when it held: what is found later may be something else."""
    found: Found = {}

    def look() -> bool:
        found.clear()
        found.update(gather(etcd, run_module, timeout))
        return holds(found)

    wait_until(look, what)
    return found


def leaders(found: Found) -> list[str]:
    return [name for name, member in found.items() if member["leader"]]


def leader(etcd: Cluster, endpoints: str = "") -> str:
    """Name of the leader as etcdctl sees it."""
    statuses = json.loads(etcd.etcdctl("endpoint", "status", "-w", "json", endpoints=endpoints).stdout)
    names = {member["ID"]: member["name"] for member in members(etcd)}
    return str(names[statuses[0]["Status"]["leader"]])


def members(etcd: Cluster) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(etcd.etcdctl("member", "list", "-w", "json").stdout)["members"]
    return listed


def test_members_are_those_that_etcdctl_lists(etcd: Cluster, run_module: RunModule) -> None:
    # One may be elected between the two looks.
    found = gather_until(lambda found: leaders(found) == [leader(etcd)], "they agree on who leads", etcd, run_module)
    assert {name: (member["id"], member["peer_urls"], member["client_urls"]) for name, member in found.items()} == {
        member["name"]: (f"{member['ID']:x}", member["peerURLs"], member["clientURLs"]) for member in members(etcd)
    }
    assert all(member["healthy"] and member["db_bytes"] > 0 and not member["learner"] for member in found.values())
    version = etcd.namespace.out([str(etcd.bin / "etcd"), "--version"]).split()[2]
    assert {member["version"] for member in found.values()} == {version}


def test_dead_member_is_named_with_its_reason_and_the_rest_goes_on(etcd: Cluster, run_module: RunModule) -> None:
    dead = leader(etcd)
    etcd.kill(dead)
    alive = [member for member in etcd.members if member["name"] != dead]
    found = gather_until(
        lambda found: set(leaders(found)) - {dead} != set() and all(found[one["name"]]["healthy"] for one in alive),
        "the others have a new leader and are healthy",
        etcd,
        run_module,
    )
    assert (found[dead]["healthy"], found[dead]["version"]) == (False, None)
    assert "Connection refused" in found[dead]["problem"]
    assert leader(etcd, f"https://{alive[0]['address']}:2379") != dead


def test_cluster_without_majority_is_still_listed_and_not_healthy(etcd: Cluster, run_module: RunModule) -> None:
    etcd.kill("m1")
    etcd.kill("m2")
    found = gather_until(
        lambda found: not any(member["healthy"] or member["leader"] for member in found.values()),
        "a member alone is not healthy",
        etcd,
        run_module,
        # Whether it is healthy, a member alone does not answer for some seconds.
        timeout=5,
    )
    assert sorted(found) == ["m1", "m2", "m3"]


def test_nobody_there_is_an_error_that_names_the_endpoints(etcd: Cluster, run_module: RunModule) -> None:
    etcd.stop()
    asked = {"state": "gathered", "members": etcd.members, "timeout": 2, **etcd.tls}
    failed = run_module("etcd_member", asked, netns=etcd.namespace, fails=True)
    assert all(endpoint in failed["msg"] for endpoint in etcd.endpoints)


def test_clients_cannot_act_as_peers_nor_peers_as_clients(etcd: Cluster) -> None:
    expected = {
        ("etcd-client", 2379): "",
        ("etcd-server", 2379): "",
        ("etcd-peer", 2379): "refused",
        ("etcd-peer", 2380): "",
        ("etcd-client", 2380): "refused",
        ("etcd-server", 2380): "refused",
    }
    found = {}
    for certificate, port in expected:
        authority = "etcd-ca" if port == 2379 else "etcd-peer-ca"
        files = [str(etcd.pki / name) for name in (f"{authority}.crt", f"{certificate}.crt", f"{certificate}.key")]
        done = etcd.namespace.run(["python3", "-c", HANDSHAKE, "127.0.0.11", str(port), *files], check=False)
        found[certificate, port] = _refusal(done.stderr) if done.returncode else ""
    assert found == expected


def _refusal(words: str) -> str:
    """Whether the server ended the handshake; when it writes its reason too late, only its end is seen."""
    last = words.strip().splitlines()[-1]
    ended = last.startswith(("ssl.SSLError", "ssl.SSLEOFError", "ConnectionResetError", "BrokenPipeError"))
    return "refused" if ended and "VERIFY" not in last else words
