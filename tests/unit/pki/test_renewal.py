# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""When a certificate is signed again, why, and how much that is needed."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import SpecError
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, certificates, x509
from tests.unit.pki.node import CLIENT, DAY, NOW, PEER, SERVER, Node, mode


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
    node.ca.rename(node.ca.with_name("ca-old"))
    assert len(node.run(new_authorities=True)) == 3
    assert node.run() == []


def test_how_much_a_signature_is_needed(certified: Node) -> None:
    """What the playbook goes by when the host that signs is unreachable."""

    def needs(**settings: bool) -> dict[str, str]:
        return {request["name"]: request["need"] for request in certified.request(**settings)}

    certified.path("etcd-client.crt").unlink()
    assert needs() == {"etcd-client": "now"}
    assert needs(new_authorities=True) == {
        "etcd-server": "replacement",
        "etcd-client": "now",
        "etcd-peer": "replacement",
    }
    certified.now = NOW + 340 * DAY
    assert needs() == {"etcd-server": "soon", "etcd-client": "now", "etcd-peer": "soon"}
    certified.now = NOW + 365 * DAY
    assert set(needs().values()) == {"now"}
