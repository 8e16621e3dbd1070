# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The only place that imports pyroute2: reads kernel network state and applies operations to it."""
