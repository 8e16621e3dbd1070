# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Keys, requests, signatures and installed files: the whole way of a certificate between a node and the authority."""

from __future__ import annotations

import datetime
import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as cryptography_x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ansible_collections.fairlead.cluster.plugins.module_utils import _engine
from ansible_collections.fairlead.cluster.plugins.module_utils._ansible import items_of
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ApplyError, SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, certificates, x509

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the files belong to root")

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER = {
    "name": "etcd-server",
    "authority": "etcd",
    "common_name": "cp1",
    "dns_names": ["cp1", "localhost"],
    "addresses": ["192.0.2.11", "127.0.0.1", "::1"],
    "usages": ["server", "client"],
}
CLIENT = {"name": "etcd-client", "authority": "etcd", "common_name": "cp1"}
PEER = {**SERVER, "name": "etcd-peer", "authority": "etcd-peer"}


class Node:
    """A node and the authority's host, in two directories."""

    def __init__(self, root: Path) -> None:
        self.pki = root / "node" / "pki"
        self.ca = root / "authority" / "pki" / "ca"
        self.now = NOW
        self.wanted: list[dict[str, Any]] = [SERVER, CLIENT, PEER]
        self.window = 30
        self.outcomes: list[Outcome] = []
        self.warnings: list[str] = []

    def request(self, check: bool = False) -> list[dict[str, Any]]:
        return self._certified({}, check)

    def install(self, signed: list[dict[str, str]], check: bool = False) -> list[dict[str, Any]]:
        entries = [{key: value for key, value in entry.items() if key != "host"} for entry in signed]
        return self._certified({"signed": entries}, check)

    def _certified(self, more: dict[str, Any], check: bool) -> list[dict[str, Any]]:
        document = {
            "certificates": self.wanted,
            "directory": str(self.pki),
            "renew_before_days": self.window,
            **more,
        }
        certified = certificates.converge(document, check, self.now)
        self.outcomes.append(certified.outcome)
        self.warnings += certified.warnings
        return certified.requests

    def sign(self, requests: list[dict[str, Any]], check: bool = False, **settings: Any) -> list[dict[str, str]]:
        declared = {entry["name"]: entry for entry in self.wanted}
        document = {
            "authorities": ["cluster", "etcd", "etcd-peer"],
            "cluster_name": "lab",
            "directory": str(self.ca),
            "requests": [
                {
                    **declared[request["name"]],
                    "host": "cp1",
                    "csr": request["csr"],
                    "known_authority": request["known_authority"],
                }
                for request in requests
            ],
            **settings,
        }
        signed = authority.converge(document, check, self.now)
        self.outcomes.append(signed.outcome)
        self.warnings += signed.warnings
        return signed.signed

    def run(self, check: bool = False, **settings: Any) -> list[str]:
        """What the playbook does. Gives the reasons for which something was signed."""
        requests = self.request(check)
        if requests:
            self.install(self.sign(requests, check, **settings), check)
        return [request["reason"] for request in requests]

    def path(self, name: str) -> Path:
        return self.pki / name

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.pki.parent.parent.rglob("*") if path.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def certified(node: Node) -> Node:
    node.run()
    node.outcomes.clear()
    return node


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:04o}"


def test_fresh_node_gets_all_files_with_the_right_access_rights(certified: Node) -> None:
    rights = {path.name: mode(path) for path in sorted(certified.pki.iterdir())}
    assert rights == {
        "etcd-ca.crt": "0644",
        "etcd-client.crt": "0644",
        "etcd-client.key": "0600",
        "etcd-peer-ca.crt": "0644",
        "etcd-peer.crt": "0644",
        "etcd-peer.key": "0600",
        "etcd-server.crt": "0644",
        "etcd-server.key": "0600",
    }
    assert mode(certified.ca) == "0700"
    assert {path.name: mode(path) for path in certified.ca.glob("*.key")} == {
        "cluster.key": "0600",
        "etcd.key": "0600",
        "etcd-peer.key": "0600",
    }


def test_openssl_accepts_key_certificate_and_chain(certified: Node) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.path("etcd-server.crt"), certified.path("etcd-server.key"))
    context.load_verify_locations(certified.path("etcd-ca.crt"))


def test_certificate_says_what_was_declared(certified: Node) -> None:
    found = cryptography_x509.load_pem_x509_certificate(certified.path("etcd-server.crt").read_bytes())
    names = found.extensions.get_extension_for_class(cryptography_x509.SubjectAlternativeName).value
    usage = found.extensions.get_extension_for_class(cryptography_x509.ExtendedKeyUsage).value
    assert sorted(names.get_values_for_type(cryptography_x509.DNSName)) == ["cp1", "localhost"]
    assert sorted(map(str, names.get_values_for_type(cryptography_x509.IPAddress))) == [
        "127.0.0.1",
        "192.0.2.11",
        "::1",
    ]
    assert {oid._name for oid in usage} == {"serverAuth", "clientAuth"}
    assert x509.validity_of(certified.path("etcd-server.crt").read_text())[1] == NOW + 365 * DAY
    assert not found.extensions.get_extension_for_class(cryptography_x509.BasicConstraints).value.ca


def test_second_run_asks_for_nothing_and_changes_nothing(certified: Node) -> None:
    before = certified.files()
    assert certified.run() == []
    assert not any(outcome.changed for outcome in certified.outcomes)
    assert certified.files() == before


def test_check_mode_on_a_fresh_node_predicts_all_and_writes_nothing(node: Node) -> None:
    assert len(node.run(check=True)) == 3
    predicted = sorted(str(key) for outcome in node.outcomes for key in outcome.after)
    assert not list(node.pki.parent.parent.rglob("*"))
    node.outcomes.clear()
    node.run()
    assert sorted(str(key) for outcome in node.outcomes for key in outcome.after) == predicted


def test_check_mode_without_cryptography_predicts_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x509, "AVAILABLE", False)
    assert node.request(check=True) == []
    assert len(node.outcomes[0].operations) == 6
    with pytest.raises(x509.PrerequisiteError, match="python3-cryptography"):
        node.request()


def test_no_result_holds_a_private_key(node: Node) -> None:
    requests = node.request()
    signed = node.sign(requests)
    node.install(signed)
    shown = json.dumps([requests, signed])
    for outcome in node.outcomes:
        shown += json.dumps([items_of(outcome.before), items_of(outcome.after)])
        shown += " ".join(map(str, outcome.operations))
    assert "PRIVATE KEY" not in shown


def test_renewal_starts_at_the_window_and_keeps_the_key(certified: Node) -> None:
    key = certified.path("etcd-server.key").read_text()
    first = certified.path("etcd-server.crt").read_text()
    certified.now = NOW + 335 * DAY - datetime.timedelta(seconds=1)
    assert certified.run() == []
    certified.now = NOW + 335 * DAY
    assert certified.run() == ["it is valid until 2027-11-21T12:00:00+00:00 only"] * 3
    assert certified.path("etcd-server.crt").read_text() != first
    assert certified.path("etcd-server.key").read_text() == key
    assert certified.run() == []


def changed_name(node: Node) -> None:
    node.wanted = [{**SERVER, "addresses": ["192.0.2.99"]}, CLIENT, PEER]


def changed_authority(node: Node) -> None:
    node.wanted = [{**SERVER, "authority": "etcd-peer"}, CLIENT, PEER]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda node: node.path("etcd-server.key").unlink(), "the certificate is for another key"),
        (lambda node: node.path("etcd-server.key").write_text("no key"), "the certificate is for another key"),
        (lambda node: node.path("etcd-server.crt").unlink(), "there is no certificate"),
        (lambda node: node.path("etcd-server.crt").write_text("nothing"), "the certificate is unreadable"),
        (lambda node: node.path("etcd-server.crt").write_bytes(b"\xff\xfe"), "the certificate is unreadable"),
        (changed_name, "it says CN=cp1"),
        (changed_authority, "it is not signed by the authority"),
    ],
)
def test_damage_is_repaired_with_its_reason_and_only_there(certified: Node, damage: Any, reason: str) -> None:
    client = certified.path("etcd-client.crt").read_text()
    damage(certified)
    reasons = certified.run()
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)
    assert certified.run() == []
    assert certified.path("etcd-client.crt").read_text() == client


def test_lost_authority_file_is_brought_back(certified: Node) -> None:
    certified.path("etcd-ca.crt").unlink()
    assert len(certified.run()) == 2
    assert certified.path("etcd-ca.crt").read_text() == (certified.ca / "etcd.crt").read_text()


def test_access_rights_are_put_right_without_a_signature(certified: Node) -> None:
    certified.path("etcd-server.key").chmod(0o644)
    assert certified.run() == []
    assert [str(operation)[:40] for outcome in certified.outcomes for operation in outcome.operations] == [
        f"~ private_key {certified.path('etcd-server.key')}"[:40]
    ]
    assert mode(certified.path("etcd-server.key")) == "0600"


def test_what_is_signed_is_what_is_declared_not_what_the_csr_says(node: Node) -> None:
    requests = node.request()
    key = ec.generate_private_key(ec.SECP256R1())
    root_name = cryptography_x509.Name([cryptography_x509.NameAttribute(cryptography_x509.OID_COMMON_NAME, "root")])
    forged = (
        cryptography_x509.CertificateSigningRequestBuilder()
        .subject_name(root_name)
        .add_extension(cryptography_x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    requests[0]["csr"] = forged.public_bytes(serialization.Encoding.PEM).decode()
    signed = node.sign(requests[:1])[0]["certificate"]
    assert x509.subject_of(signed) == x509.subject_of(node.sign(node.request()[:1])[0]["certificate"])
    found = cryptography_x509.load_pem_x509_certificate(signed.encode())
    assert not found.extensions.get_extension_for_class(cryptography_x509.BasicConstraints).value.ca


def rsa_request() -> str:
    key = rsa.generate_private_key(65537, 2048)
    builder = cryptography_x509.CertificateSigningRequestBuilder().subject_name(cryptography_x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("csr", ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])
def test_broken_request_is_refused_by_name(node: Node, csr: str) -> None:
    request = node.request()[0]
    with pytest.raises(authority.AuthorityError, match="certificate etcd-server of cp1: the CSR"):
        node.sign([{**request, "csr": csr}])


def test_request_for_another_kind_of_key_is_refused(node: Node) -> None:
    request = node.request()[0]
    with pytest.raises(authority.AuthorityError, match="not ECDSA on P-256"):
        node.sign([{**request, "csr": rsa_request()}])


def test_wrong_certificate_is_not_installed(node: Node) -> None:
    signed = {entry["name"]: entry for entry in node.sign(node.request())}
    before = node.files()
    swapped = {**signed["etcd-client"], "name": "etcd-server"}
    with pytest.raises(certificates.CertificateError, match="etcd-server: the certificate is for another key"):
        node.install([swapped])
    foreign = {**signed["etcd-server"], "authority_certificate": signed["etcd-peer"]["authority_certificate"]}
    with pytest.raises(certificates.CertificateError, match="etcd-server: it is not signed by the authority"):
        node.install([foreign])
    assert node.files() == before


def test_validity_shorter_than_the_window_is_refused_instead_of_renewed_for_ever(node: Node) -> None:
    for days in (10, node.window):
        with pytest.raises(SpecError, match="etcd-server is valid until 2026-12-") as caught:
            node.run(days=days)
        assert caught.value.path == "renew_before_days"
    assert not list(node.pki.glob("*.crt"))


def test_certificate_ends_with_its_authority(node: Node) -> None:
    node.run(days=365, authority_days=100)
    assert x509.validity_of(node.path("etcd-server.crt").read_text())[1] == NOW + 100 * DAY
    assert node.warnings == [
        f"authority {name} ends on 2027-03-01T12:00:00+00:00, and what it signs now ends with it"
        for name in ("etcd", "etcd-peer")
    ]


def test_in_the_last_days_of_an_authority_nothing_is_renewed_but_all_is_warned_of(node: Node) -> None:
    node.run(authority_days=100)
    node.now = NOW + 70 * DAY
    node.warnings.clear()
    before = node.files()
    assert node.run() == []
    assert node.files() == before
    assert [warning.split(", and")[0] for warning in node.warnings] == [
        f"certificate {entry['name']} ends on 2027-03-01T12:00:00+00:00 with its authority {entry['authority']}"
        for entry in node.wanted
    ]


def test_in_the_last_days_of_an_authority_what_is_missing_is_still_signed(node: Node) -> None:
    node.run(authority_days=100)
    node.now = NOW + 99 * DAY
    node.path("etcd-server.crt").unlink()
    assert node.run() == ["there is no certificate"]
    assert x509.validity_of(node.path("etcd-server.crt").read_text())[1] == NOW + 100 * DAY
    assert node.run() == []


def test_certificate_of_the_future_is_not_installed(node: Node) -> None:
    signed = node.sign(node.request())
    before = node.files()
    node.now = NOW - 2 * x509.BACKDATED
    message = "etcd-server: it is not valid before 2026-11-21T11:00:00.*clock of this node says 2026-11-21T10:00:00"
    with pytest.raises(certificates.CertificateError, match=message):
        node.install(signed)
    assert node.files() == before
    node.now = NOW - x509.BACKDATED
    assert node.install(signed) == []


def test_clock_that_fell_behind_its_certificates_is_named(certified: Node) -> None:
    certified.now = NOW - 2 * DAY
    reasons = {request["reason"] for request in certified.request()}
    assert reasons == {
        "it is not valid before 2026-11-21T11:00:00+00:00; the clock of this node says 2026-11-19T12:00:00+00:00"
    }


def test_expired_authority_does_not_sign(node: Node) -> None:
    node.run(authority_days=100)
    node.now = NOW + 101 * DAY
    with pytest.raises(authority.AuthorityError, match="authority etcd: has expired"):
        node.run()


@pytest.mark.parametrize("lost", ["etcd.key", "etcd.crt"])
def test_half_an_authority_is_not_replaced(certified: Node, lost: str) -> None:
    certificate = (certified.ca / "etcd.crt").read_text()
    (certified.ca / lost).unlink()
    certified.path("etcd-client.crt").unlink()
    before = certified.files()
    with pytest.raises(authority.AuthorityError, match=f"{lost} is missing"):
        certified.run()
    assert certified.files() == before
    (certified.ca.parent / "etcd-ca.crt").write_text(certificate)
    with pytest.raises(authority.AuthorityError, match=f"{lost} is missing"):
        certified.sign([])


class Killed(BaseException):
    """Stands for a kill: nothing after it happens, also no undoing."""


@pytest.mark.parametrize("written", range(6))
def test_kill_while_authorities_are_made_is_left_by_the_next_run(
    node: Node, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    rename, count = os.rename, iter(range(100))

    def die(source: str, target: str) -> None:
        if next(count) >= written:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", die)
        patch.setattr(_engine, "_undo", lambda *_arguments: None)
        node.sign([])
    left = {path.name: path.read_text() for path in node.ca.iterdir() if path.suffix in (".key", ".crt")}
    assert len(left) == written
    assert len(node.run()) == 3
    assert {name: (node.ca / name).read_text() for name in left} == left
    assert node.run() == []


def test_certificate_without_key_that_nobody_trusts_is_replaced(node: Node) -> None:
    node.sign([])
    (node.ca / "etcd.key").unlink()
    lost = (node.ca / "etcd.crt").read_text()
    assert len(node.run()) == 3
    assert (node.ca / "etcd.crt").read_text() != lost
    assert node.run() == []


def test_key_without_certificate_that_is_no_key_is_named(node: Node) -> None:
    node.ca.mkdir(parents=True)
    (node.ca / "etcd.key").write_text("no key")
    with pytest.raises(authority.AuthorityError, match=r"etcd\.key holds no ECDSA key"):
        node.sign([])
    assert [path.name for path in node.ca.iterdir()] == ["etcd.key"]


def test_authority_whose_files_do_not_fit_does_not_sign(certified: Node) -> None:
    (certified.ca / "etcd.key").write_text((certified.ca / "cluster.key").read_text())
    with pytest.raises(authority.AuthorityError, match="does not hold the key"):
        certified.sign([])


def test_lost_authority_is_not_made_anew_where_it_was_in_use(certified: Node) -> None:
    anchor = certified.ca.parent / "etcd-ca.crt"
    anchor.write_text((certified.ca / "etcd.crt").read_text())
    for path in certified.ca.iterdir():
        path.unlink()
    with pytest.raises(authority.AuthorityError, match="there was one already"):
        certified.sign([])
    assert list(certified.ca.iterdir()) == []


def test_host_that_trusts_another_authority_is_refused(certified: Node) -> None:
    for path in certified.ca.iterdir():
        path.unlink()
    certified.path("etcd-server.crt").unlink()
    with pytest.raises(authority.AuthorityError, match="that host trusts another authority etcd"):
        certified.run()


def test_failed_write_leaves_every_file_as_it_was(certified: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = certified.files()
    certified.now = NOW + 350 * DAY
    signed = certified.sign(certified.request())
    rename, count = os.rename, iter(range(100))

    def fail_third(source: str, target: str) -> None:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_third)
    with pytest.raises(ApplyError, match="No space left"):
        certified.install(signed)
    assert certified.files() == before


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "Etcd"}, "certificates[0].name"),
        ({"name": "../etcd"}, "certificates[0].name"),
        ({"authority": "a/b"}, "certificates[0].authority"),
        ({"common_name": "x" * 65}, "certificates[0].common_name"),
        ({"common_name": ""}, "certificates[0].common_name"),
        ({"dns_names": ["ok", "not ok"]}, "certificates[0].dns_names[1]"),
        ({"addresses": ["192.0.2.300"]}, "certificates[0].addresses[0]"),
        ({"usages": ["sign"]}, "certificates[0].usages[0]"),
        ({"key_path": "relative"}, "certificates[0].key_path"),
        ({"colour": "red"}, "certificates[0].colour"),
    ],
)
def test_broken_declaration_is_refused_with_its_path(node: Node, changes: dict[str, Any], path: str) -> None:
    node.wanted = [{**SERVER, **changes}]
    with pytest.raises(SpecError) as caught:
        node.request()
    assert caught.value.path == path
    assert not node.pki.exists()


def test_two_certificates_in_one_file_are_refused(node: Node) -> None:
    node.wanted = [SERVER, {**CLIENT, "certificate_path": str(node.path("x")), "key_path": str(node.path("y"))}]
    node.wanted[0] = {**SERVER, "certificate_path": str(node.path("x"))}
    with pytest.raises(SpecError, match=r"certificates\[1\]\.certificate_path"):
        node.request()
