# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""From nothing to installed certificates: what they say, and what is refused on the way."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest
from cryptography import x509 as cryptography_x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ansible_collections.fairlead.cluster.plugins.module_utils._ansible import items_of
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, certificates, x509
from ansible_collections.fairlead.cluster.plugins.module_utils._pki.record import NAME
from tests.unit.pki.node import CLIENT, DAY, NOW, SERVER, Node, mode


def test_fresh_node_gets_all_files_with_the_right_access_rights(certified: Node) -> None:
    rights = {path.name: mode(path) for path in sorted(certified.pki.iterdir())}
    assert rights == {
        NAME: "0600",
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
