# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""From what is there and what is wanted to ordered operations. Pure: reads nothing, changes nothing."""
