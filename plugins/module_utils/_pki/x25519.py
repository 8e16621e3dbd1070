# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The public key that belongs to a private one of WireGuard, which is X25519 of RFC 7748.

The kernel would compute it for a device in a network namespace of its own, but the boot unit may make none.
"""

from __future__ import annotations

from .._model.secret import Secret
from .._model.wireguard import shown
from .x509 import require


def public_key_of(private: Secret) -> str:
    """In base64, as everywhere in WireGuard. Raises MissingPackageError without the package ``cryptography``."""
    require()
    # Only where it is needed: the package takes longer to load than most runs.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = X25519PrivateKey.from_private_bytes(private.value).public_key()
    return shown(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
