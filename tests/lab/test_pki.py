# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The host with the authorities' keys on real nodes: not needed, away, installed again, outside of the run.

The tests share one lab and run in the order of the file: each leaves all certificates in place for the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab.cluster import TOP, Cluster, Run

pytestmark = [pytest.mark.lab, pytest.mark.slow]

PKI = "/etc/fairlead/pki"
HOSTS = """
all:
  children:
    etcd: {hosts: {ca: {ansible_host: 192.0.2.11}}}
    nodes: {hosts: {n1: {ansible_host: 192.0.2.12}, n2: {ansible_host: 192.0.2.13}}}
"""
NODES = ("ca", "n1", "n2")
# A window that a certificate of a year is always in.
ENDS_SOON = ("-e", "pki_renew_before_days=400")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("pki")
    inventory = directory / "inventory"
    (inventory / "group_vars" / "all").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(HOSTS)
    for path in (TOP / "inventories" / "lab" / "group_vars" / "all").glob("*.yml"):
        text = path.read_text().replace("{{ inventory_dir }}/../..", str(TOP))
        (inventory / "group_vars" / "all" / path.name).write_text(text)
    with Cluster("test-pki", directory, str(inventory), kind="container") as lab:
        yield lab


def files(cluster: Cluster) -> dict[str, str]:
    """Digests of all files of role pki, by host."""
    script = f"find {PKI} -type f | sort | xargs -r sha256sum"
    return {node: cluster.run(node, "sh", "-c", script) for node in NODES}


def fingerprint(cluster: Cluster, node: str, path: str) -> str:
    shown = cluster.run(node, "openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", f"{PKI}/{path}")
    return shown.strip().partition("=")[2].replace(":", "").lower()


@contextlib.contextmanager
def away(cluster: Cluster) -> Iterator[None]:
    """The host with the keys does not answer."""
    cluster.lab("cut", "ca")
    try:
        yield
    finally:
        cluster.lab("heal", "ca")


def words(run: Run) -> str:
    """What was printed, without the line breaks of long messages."""
    return " ".join(run.output.split())


def failed(run: Run) -> set[str]:
    return {node for node, counts in run.hosts.items() if counts["failures"]}


def test_limited_first_run_makes_no_authorities(cluster: Cluster) -> None:
    run = cluster.playbook("pki", "--limit", "nodes", expect=2)
    assert failed(run) == {"n1", "n2"}
    assert "ca could not be asked for the authorities trusted there" in words(run)
    assert "see the failure of n1" in words(run)
    cluster.run("ca", "test", "!", "-e", f"{PKI}/ca")
    # It was no host of the run, and still got what it needs to sign.
    cluster.run("ca", "dpkg", "--status", "python3-cryptography")


def test_run_of_all_hosts_certifies_them_once(cluster: Cluster) -> None:
    cluster.playbook("pki")
    before = files(cluster)
    run = cluster.playbook("pki")
    assert run.total("changed") == 0, run.output
    assert files(cluster) == before
    assert {fingerprint(cluster, node, "etcd-ca.crt") for node in NODES} == {fingerprint(cluster, "ca", "ca/etcd.crt")}


def test_host_with_the_keys_is_not_needed_while_nothing_is_due(cluster: Cluster) -> None:
    with away(cluster):
        run = cluster.playbook("pki", "--limit", "nodes")
        assert (run.total("changed"), run.total("unreachable")) == (0, 0), run.output


def test_hosts_whose_certificates_only_end_soon_go_on_without_it(cluster: Cluster) -> None:
    before = files(cluster)
    with away(cluster):
        run = cluster.playbook("pki", "--limit", "nodes", *ENDS_SOON)
        assert words(run).count("WARNING: ca, which holds the keys of the authorities, is unreachable") == 2
        whole = cluster.playbook("pki", *ENDS_SOON, expect=4)
        assert failed(whole) == set()
        assert words(whole).count("Not renewed: etcd-client (it is valid until") == 2
    assert files(cluster) == before


def test_only_hosts_that_cannot_do_without_a_signature_fail(cluster: Cluster) -> None:
    cluster.run("n1", "rm", f"{PKI}/etcd-client.crt")
    before = cluster.run("n2", "sha256sum", f"{PKI}/etcd-client.crt")
    with away(cluster):
        run = cluster.playbook("pki", "--limit", "nodes", *ENDS_SOON, expect=2)
    assert failed(run) == {"n1"}
    assert "ca, which holds the keys of the authorities, is unreachable. This host cannot do without" in words(run)
    assert "etcd-client (there is no certificate)" in words(run)
    assert "Not renewed: etcd-client (it is valid until" in words(run)
    assert cluster.run("n2", "sha256sum", f"{PKI}/etcd-client.crt") == before
    back = cluster.playbook("pki", "--limit", "nodes")
    assert {node for node, counts in back.hosts.items() if counts["changed"]} == {"n1"}


def test_host_with_the_keys_that_was_installed_again_makes_no_second_authorities(cluster: Cluster) -> None:
    trusted = fingerprint(cluster, "n1", "etcd-ca.crt")
    cluster.run("ca", "rm", "-r", PKI)
    run = cluster.playbook("pki", expect=2)
    assert failed(run) == {"ca"}
    assert f"trusted already by n1 (sha256 {trusted}), n2 (sha256 {trusted})" in words(run)
    assert f"from a backup of {PKI}/ca" in words(run)
    cluster.run("ca", "test", "!", "-e", f"{PKI}/ca")
    assert fingerprint(cluster, "n1", "etcd-ca.crt") == trusted


def test_new_authorities_on_request_are_those_of_all_hosts(cluster: Cluster) -> None:
    old = fingerprint(cluster, "n1", "etcd-ca.crt")
    cluster.playbook("pki", "-e", "pki_new_authorities=true")
    new = {fingerprint(cluster, node, "etcd-ca.crt") for node in NODES}
    assert new == {fingerprint(cluster, "ca", "ca/etcd.crt")} and new != {old}
    for node, certificate in (("ca", "etcd-server"), ("n1", "etcd-client"), ("n2", "etcd-client")):
        cluster.run(node, "openssl", "verify", "-CAfile", f"{PKI}/etcd-ca.crt", f"{PKI}/{certificate}.crt")
    for again in (("-e", "pki_new_authorities=true"), ()):
        run = cluster.playbook("pki", *again)
        assert run.total("changed") == 0, run.output


def test_reset_leaves_what_others_put_there_and_says_so(cluster: Cluster) -> None:
    cluster.run("n1", "sh", "-c", f"echo foreign > {PKI}/foreign.pem")
    run = cluster.playbook("reset", "-e", "reset_confirmed=true")
    assert f"{PKI}/foreign.pem" in words(run)
    assert cluster.run("n1", "find", "/etc/fairlead", "-type", "f").split() == [f"{PKI}/foreign.pem"]
    for node in ("ca", "n2"):
        cluster.run(node, "test", "!", "-e", "/etc/fairlead")
