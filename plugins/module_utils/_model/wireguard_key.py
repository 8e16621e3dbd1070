# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The file of a node's private key as declared state."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Hashable, Optional, Tuple

from .item import BaseItem
from .secret import NO_SECRET, Secret

# Nobody but root may read a private key, and nothing writes to it after it was made.
MODE = "0400"


@dataclasses.dataclass(frozen=True)
class WireguardKey(BaseItem):
    """``public_key`` is None for a key that is yet to be made, and where nobody asked."""

    kind: ClassVar[str] = "wireguard_key"
    path: str
    public_key: Optional[str]
    mode: str = MODE
    owner: str = "root"
    private_key: Secret = dataclasses.field(default=NO_SECRET, compare=False)

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.path,)

    def to_dict(self) -> Dict[str, Any]:
        return {
            "kind": self.kind,
            "path": self.path,
            "public_key": self.public_key,
            "mode": self.mode,
            "owner": self.owner,
        }

    def __str__(self) -> str:
        return f"wireguard_key {self.path} {self.mode} {self.owner} public key {self.public_key or 'not known'}"
