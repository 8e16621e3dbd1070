# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The file with a node's private key, in the form of `wg genkey`."""

from __future__ import annotations

from typing import Optional

from .._model.errors import ReadError, SpecError
from .._model.secret import Secret
from .._model.wireguard import parse_key
from .files import read_file


def read_key(path: str) -> Optional[Secret]:
    """None where there is no file. Raises ReadError for one that holds anything else than a key."""
    file = read_file(path)
    if file is None:
        return None
    try:
        return Secret(parse_key(file.content.strip(), path))
    except SpecError:
        raise ReadError(
            f"{path}: holds no private key of WireGuard; restore it from a backup, or remove it so that a new one is "
            "made, by which peers know this node from their next run on"
        ) from None
