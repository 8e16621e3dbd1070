# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Public keys of WireGuard, against the RFC."""

from __future__ import annotations

import base64

from ansible_collections.fairlead.cluster.plugins.module_utils._model.secret import Secret
from ansible_collections.fairlead.cluster.plugins.module_utils._pki.x25519 import public_key_of


def test_key_of_the_rfc() -> None:
    """RFC 7748, section 5.2: one iteration with 9 as key and as point."""
    public = base64.b64decode(public_key_of(Secret(bytes([9, *bytes(31)]))))
    assert public.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
