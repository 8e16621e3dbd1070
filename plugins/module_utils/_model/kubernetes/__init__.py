# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Objects of the Kubernetes API, as far as they say where traffic to services goes."""
