# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters for etcd, through its JSON gateway: leases, and the members of the cluster. Standard library only."""
