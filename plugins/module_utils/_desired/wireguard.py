# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What an overlay of backend wireguard needs of the node, and knows of earlier runs."""

from __future__ import annotations

from typing import Dict, Iterable

from .._model.backend import WIREGUARD
from .._model.errors import PrerequisiteError, SpecError
from .._model.item import Key
from .._model.overlay import Overlay, declared_peers
from .._model.secret import NO_SECRET, Secret
from .._model.wireguard import WireguardPeer
from .._system.wireguard_key import read_key


def private_key(overlay: Overlay, check: bool) -> Secret:
    """The node's own key, none for another backend. Raises PrerequisiteError where there is no file, unless ``check``
    only asks what would be done; SpecError when its public key is not the declared one."""
    backend = overlay.backend
    if backend.type != WIREGUARD:
        return NO_SECRET
    secret = read_key(backend.key_file)
    if secret is None:
        if check:
            return NO_SECRET
        raise PrerequisiteError(
            f"backend.key_file: there is no {backend.key_file} on this node; module wireguard_key makes it, which role "
            "fairlead.cluster.flannel runs"
        )
    # Only where it is needed: start-up is part of what a run costs.
    from .._pki.x25519 import public_key_of

    found = public_key_of(secret)
    for family in overlay.families:
        if family.node.public_key != found:
            raise SpecError(
                f"node.public_key{family.version.suffix}",
                f"{family.node.public_key} is not {found}, the public key of {backend.key_file} on this node; declare "
                "what module wireguard_key returns",
            )
    return secret


def declared_endpoints(overlays: Iterable[Overlay]) -> Dict[Key, str]:
    """By the peers' keys; a later overlay counts."""
    endpoints: Dict[Key, str] = {}
    for overlay in overlays:
        for peer in declared_peers(overlay):
            assert isinstance(peer, WireguardPeer)
            endpoints[peer.key] = peer.endpoint
    return endpoints
