# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What every module of the collection promises about check mode, diff mode and idempotence."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Reads and plans exactly as in a real run, and changes nothing.
    support: full
  diff_mode:
    description: Returns one line for each object before and after.
    support: full
  idempotent:
    description: A second run with the same input finds nothing to do.
    support: full
  platform:
    description: Operating systems that the module runs on.
    support: full
    platforms: posix
"""
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Only reads, so check mode makes no difference.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: N/A
  platform:
    description: Operating systems that the module runs on.
    support: full
    platforms: posix
"""
