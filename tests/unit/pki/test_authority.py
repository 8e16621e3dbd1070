# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Authorities are made once: what is completed, what is refused, and how to begin anew."""

from __future__ import annotations

import os

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils import _engine
from ansible_collections.fairlead.cluster.plugins.module_utils._pki import authority, x509
from tests.unit.pki.node import Node


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
        if target.endswith((".key", ".crt")) and next(count) >= written:
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


def test_certificate_without_key_is_not_replaced_though_nobody_trusts_it(node: Node) -> None:
    """No interrupted run leaves that: a key was lost, and with it what it has signed somewhere."""
    node.sign([])
    (node.ca / "etcd.key").unlink()
    requests = node.request()
    before = node.files()
    with pytest.raises(authority.AuthorityError, match=r"etcd\.key is missing beside its certificate.*backup of"):
        node.sign(requests)
    assert node.files() == before
    assert len(node.run(new_authorities=True)) == 3
    assert node.run() == []


def test_key_without_certificate_is_completed_with_a_word(node: Node) -> None:
    node.sign([])
    key = (node.ca / "etcd.key").read_text()
    (node.ca / "etcd.crt").unlink()
    node.run()
    assert (node.ca / "etcd.key").read_text() == key
    assert [warning.split(",")[0] for warning in node.warnings] == ["authority etcd had a key without a certificate"]


@pytest.mark.parametrize("left", [[], ["etcd.key"]])
def test_nothing_is_made_or_completed_while_hosts_could_not_be_asked(node: Node, left: list[str]) -> None:
    node.sign([])
    for path in [path for path in node.ca.iterdir() if path.name not in left]:
        path.unlink()
    before = node.files()
    with pytest.raises(authority.AuthorityError, match="w1, w2, w3 and 1 more could not be asked"):
        node.sign([], unasked=["w1", "w2", "w3", "w4"])
    assert node.files() == before
    node.sign([], unasked=["w1"], new_authorities=True)
    assert sorted(path.name for path in node.ca.glob("etcd.*")) == ["etcd.crt", "etcd.key"]


def test_authorities_that_are_there_sign_whoever_could_not_be_asked(node: Node) -> None:
    node.sign([])
    assert len(node.run(unasked=["w1"])) == 3


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
    with pytest.raises(authority.AuthorityError, match=r"trusted already by \S+/etcd-ca\.crt here"):
        certified.sign([])
    assert list(certified.ca.iterdir()) == []


def lose_authority(node: Node) -> None:
    for path in node.ca.iterdir():
        path.unlink()


def test_each_host_says_which_authorities_it_trusts(certified: Node) -> None:
    (certified.path("front-proxy-ca.crt")).write_text((certified.ca / "cluster.crt").read_text())
    certified.path("Odd-ca.crt").write_text("not a name of an authority")
    assert certified.request() == []
    fingerprints = {path.stem: x509.fingerprint_of(path.read_text()) for path in sorted(certified.ca.glob("*.crt"))}
    assert certified.trusted == [
        {"host": "cp1", "name": "etcd", "fingerprint": fingerprints["etcd"]},
        {"host": "cp1", "name": "etcd-peer", "fingerprint": fingerprints["etcd-peer"]},
        {"host": "cp1", "name": "front-proxy", "fingerprint": fingerprints["cluster"]},
    ]


def test_lost_authority_is_not_made_anew_for_a_new_host_while_another_host_trusts_it(certified: Node) -> None:
    """The host with the keys was installed again: it asks as one that trusts nobody, and the others ask for nothing."""
    lose_authority(certified)
    fresh = Node(certified.root, "cp0")
    before = certified.files()
    assert certified.request() == []
    requests = fresh.request()
    keys = {name: content for name, content in certified.files().items() if name not in before}
    fingerprint = next(entry["fingerprint"] for entry in certified.trusted if entry["name"] == "etcd")
    with pytest.raises(authority.AuthorityError, match=f"trusted already by cp1 \\(sha256 {fingerprint}\\)") as caught:
        fresh.sign(requests, trusted=certified.trusted)
    for hint in (f"backup of {fresh.ca}", "pki_authority_host", "pki_new_authorities=true"):
        assert hint in str(caught.value)
    assert certified.files() == {**before, **keys}


def test_host_that_trusts_another_authority_is_refused(certified: Node) -> None:
    lose_authority(certified)
    certified.sign([])
    certified.path("etcd-server.crt").unlink()
    with pytest.raises(authority.AuthorityError, match="another authority etcd than the one here .* trusted by cp1"):
        certified.run()


def test_new_host_is_refused_where_all_others_trust_another_authority(certified: Node) -> None:
    lose_authority(certified)
    certified.sign([])
    fresh = Node(certified.root, "cp0")
    certified.request()
    with pytest.raises(authority.AuthorityError, match="another authority etcd than the one here .* trusted by cp1"):
        fresh.run(trusted=certified.trusted)


def test_one_host_that_is_behind_does_not_keep_others_from_their_signatures(certified: Node) -> None:
    behind = {"host": "w7", "name": "etcd", "fingerprint": "0" * 64}
    certified.request()
    assert len(Node(certified.root, "cp0").run(trusted=[*certified.trusted, behind])) == 3


def test_new_authorities_by_request_reach_every_certificate_once(certified: Node) -> None:
    lose_authority(certified)
    old = certified.files()
    assert certified.run(new_authorities=True) == ["its authority may have been replaced by a new one"] * 3
    assert certified.path("etcd-ca.crt").read_text() == (certified.ca / "etcd.crt").read_text()
    new = certified.files()
    assert sorted(name for name in old if new[name] == old[name]) == [
        str(path) for path in sorted(certified.pki.glob("*.key"))
    ]
    certified.run(new_authorities=True)
    assert certified.files() == new
    assert certified.run() == []


def test_host_that_signs_is_not_named_twice(certified: Node) -> None:
    """Its own copy says the same as what it was asked for as a host of the run."""
    (certified.ca.parent / "etcd-ca.crt").write_text((certified.ca / "etcd.crt").read_text())
    lose_authority(certified)
    certified.request()
    with pytest.raises(authority.AuthorityError) as caught:
        certified.sign([], trusted=certified.trusted)
    assert str(caught.value).count("(sha256 ") == 1
