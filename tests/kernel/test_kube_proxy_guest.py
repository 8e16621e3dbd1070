# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy left of virtual services: where this kernel has no IPVS, the tests run in a User-mode Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel import guest
from tests.kernel.guest_uml import UserModeLinux

#: Kernel modules of the guest: nothing for sets and nftables, whose commands are installed all the same.
MODULES = ("ipv6", "dummy", "ip_vs", "ip_vs_rr")
#: More than enough on a busy machine.
SECONDS = 600


@pytest.mark.guest
@pytest.mark.skipif(Path("/proc/net/ip_vs").exists(), reason="the tests run in this kernel, which has IPVS")
def test_in_a_kernel_with_ipvs(tmp_path: Path) -> None:
    output = guest.run_tests(UserModeLinux(), ["tests/kernel/test_kube_proxy_ipvs.py"], MODULES, tmp_path, SECONDS)
    assert " passed" in output and " skipped" not in output
