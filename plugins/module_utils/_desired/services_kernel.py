# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules and sysctls of services, in files of their own beside those of the node."""

from __future__ import annotations

from typing import Any, Mapping

from .._engine import Outcome
from .._system.runner import Runner
from . import kernel_settings


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``kernel_settings``."""
    return kernel_settings.converge(document, check, runner)
