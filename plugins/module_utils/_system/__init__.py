# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters for what is not netlink: files, sysctls, kernel modules, packet filters. Commands go through a runner."""
