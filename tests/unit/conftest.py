# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""For unit tests: no root, no network, no change outside tmp_path."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Timings on shared machines vary too much for a deadline; without CI more examples are no burden.
settings.register_profile("ci", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", deadline=None, max_examples=100)
settings.load_profile("ci" if os.environ.get("CI") else "default")
