# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Where a node's Python dependencies come from: the runtime tree that role ``node`` put under /opt/fairlead."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING, Tuple

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

RUNTIME_LIB = "/opt/fairlead/current/lib"
# 0.9.7 is the first release with all netlink kinds used here working on its asyncio core.
PYROUTE2_MINIMUM = (0, 9, 7)


def has_pyroute2() -> bool:
    """Whether ``import pyroute2`` works from here on; the runtime tree is made known to this process."""
    if os.path.isdir(RUNTIME_LIB) and RUNTIME_LIB not in sys.path:
        sys.path.insert(0, RUNTIME_LIB)
    return _pyroute2_version() >= PYROUTE2_MINIMUM


def require_pyroute2(module: AnsibleModule) -> None:
    """Make ``import pyroute2`` work in this process, or end the module with what to do about it."""
    if not has_pyroute2():
        found = _pyroute2_version()
        have = f"only version {'.'.join(map(str, found))} is" if found else "none is"
        module.fail_json(
            msg=f"pyroute2 {'.'.join(map(str, PYROUTE2_MINIMUM))} or newer is needed on this node and {have} there: "
            f"apply role fairlead.cluster.node first, which brings it as part of {RUNTIME_LIB}"
        )


def _pyroute2_version() -> Tuple[int, ...]:
    """Read without importing pyroute2: that takes a tenth of a second, and most callers need a small part of it."""
    spec = importlib.util.find_spec("pyroute2")
    for directory in (spec and spec.submodule_search_locations) or ():
        try:
            with open(os.path.join(directory, "config", "version.py"), encoding="utf-8") as stream:
                found = re.search(r"__version__ *= *[\"']([0-9.]+)", stream.read())
        except OSError:
            continue
        if found:
            return tuple(int(part) for part in found.group(1).split(".")[:3] if part)
    return ()
