# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A service of systemd that is made of files of ours."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Hashable, Tuple

from .item import BaseItem

# A unit file or a configuration as systemd or the running process has it; FOREIGN is that of a service not of ours.
ABSENT, OUTDATED, CURRENT, FOREIGN = "absent", "outdated", "current", "foreign"


@dataclasses.dataclass(frozen=True)
class Service(BaseItem):
    """``unit_file``: whether systemd has read the present one (ABSENT, OUTDATED, CURRENT), FOREIGN for one that is not
    ours. ``configuration``: whether the process runs with the present one (OUTDATED, CURRENT, FOREIGN)."""

    kind: ClassVar[str] = "service"
    unit: str
    unit_file: str
    enabled: bool
    running: bool
    configuration: str

    @property
    def identity(self) -> Tuple[Hashable, ...]:
        return (self.unit,)

    def __str__(self) -> str:
        enabled = "enabled" if self.enabled else "disabled"
        running = f"running with {self.configuration} configuration" if self.running else "not running"
        return f"service {self.unit} ({self.unit_file} unit file) {enabled} {running}"
