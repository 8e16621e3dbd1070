# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services in ipvsadm's words go into the kernel and come back alike. Where this kernel has no IPVS, in a
User-mode Linux that has it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_text import ipvsadm_lines
from tests.ipvs_example import SAVED, SERVERS, SERVICES
from tests.kernel import guest
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.namespaces import Namespace, Namespaces

#: Kernel modules of the guest.
MODULES = ("ipv6", "ip_vs", "ip_vs_rr", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh", "ip_vs_pe_sip")


def has_ipvs(node: Namespace) -> bool:
    return shutil.which("ipvsadm") is not None and node.run("ipvsadm -Ln", check=False).returncode == 0


def test_ipvs_in_a_kernel_that_has_it(netns: Namespaces, tmp_path: Path) -> None:
    if guest.INSIDE in os.environ or has_ipvs(netns("probe")):
        pytest.skip("the other test of this file has run in this kernel")
    if shutil.which("ipvsadm") is None:
        pytest.skip("needs ipvsadm")
    output = guest.run_tests(UserModeLinux(), ["tests/kernel/test_ipvsadm_lines.py"], MODULES, tmp_path)
    assert re.search(r"1 passed, 1 skipped", output), output


def test_ipvsadm_takes_the_lines_and_saves_them_alike(netns: Namespaces) -> None:
    node = netns("n")
    if not has_ipvs(node):
        assert guest.INSIDE not in os.environ, "the guest has no IPVS either"
        pytest.skip("this kernel has no IPVS; the test runs in a guest that has it")
    node.run("ipvsadm --restore", data="\n".join([*ipvsadm_lines(SERVICES, SERVERS), ""]))
    assert node.run("ipvsadm-save -n").stdout.split("\n") == [*SAVED, ""]
