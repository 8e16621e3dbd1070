# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What is declared: dataclasses, parsing and canonical forms. Knows nothing of Ansible, pyroute2 or the kernel."""
