# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Services that read their configuration anew only when told to, and the note that one of them has yet to be told."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Hashable, Tuple

from .item import BaseItem

SYSTEMD, UDEV, NETWORKD, NETWORK_MANAGER = "systemd", "udev", "networkd", "network_manager"
SERVICES = (SYSTEMD, UDEV, NETWORKD, NETWORK_MANAGER)


@dataclasses.dataclass(frozen=True)
class DueReload(BaseItem):
    """Files of ``service`` (one of SERVICES) may have changed since it read them. Deleting this is reloading it."""

    kind: ClassVar[str] = "due_reload"
    service: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.service,)

    def __str__(self) -> str:
        return f"due reload of {self.service}"
