# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real Linux nodes on this machine, made from an inventory: ``python -m lab --help``."""
