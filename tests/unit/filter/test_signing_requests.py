# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What reaches the authority: declared names, the node's CSR, and nothing else of the node."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.fairlead.cluster.plugins.filter.signing_requests import signing_requests

DECLARED = [
    {"name": "etcd-client", "authority": "etcd", "common_name": "w1", "owner": "root", "key_path": "/k"},
    {"name": "etcd-peer", "authority": "etcd-peer", "common_name": "w1", "addresses": ["192.0.2.14"]},
]


def asked(**changes: str) -> dict[str, str | None]:
    return {
        "name": "etcd-client",
        "csr": "CSR",
        "reason": "there is no key",
        "need": "now",
        "known_authority": None,
        **changes,
    }


def test_request_carries_the_declaration_and_the_csr() -> None:
    assert signing_requests([asked()], DECLARED, "w1") == [
        {
            "host": "w1",
            "name": "etcd-client",
            "authority": "etcd",
            "common_name": "w1",
            "csr": "CSR",
            "reason": "there is no key",
            "need": "now",
            "known_authority": None,
        }
    ]


def test_what_a_node_adds_does_not_get_through() -> None:
    forged = asked(authority="etcd-peer", common_name="cp1", usages="server", host="cp1")
    assert signing_requests([forged], DECLARED, "w1") == signing_requests([asked()], DECLARED, "w1")


def test_certificate_that_was_not_declared_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="w1 asks for a certificate etcd-server"):
        signing_requests([asked(name="etcd-server")], DECLARED, "w1")
