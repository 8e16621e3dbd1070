# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual services: where this kernel has no IPVS, their tests run in a User-mode Linux, and here they are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel import guest
from tests.kernel.conftest import RunModule
from tests.kernel.guest_uml import UserModeLinux
from tests.kernel.ipvs_nodes import MODULE, SCHEDULERS, web
from tests.kernel.namespaces import Namespaces
from tests.kernel.test_cluster_service_guest import GUESTS

#: Kernel modules of the guest.
NETWORK = ("ipv6", "dummy", "veth", "bridge", "sctp", "ipip", "ip_gre", "fou")
FILTER = ("iptable_mangle", "ip6table_mangle", "xt_tcpudp", "xt_mark")
MODULES = (*NETWORK, *FILTER, "ip_vs", *(f"ip_vs_{name}" for name in SCHEDULERS), "ip_vs_pe_sip")
#: More than enough on a busy machine, where namespaces and processes take a guest seconds.
SECONDS = 1200
HAS_IPVS = Path("/proc/net/ip_vs").exists()
elsewhere = pytest.mark.skipif(HAS_IPVS, reason="the tests run in this kernel, which has IPVS")


@pytest.mark.guest
@elsewhere
@pytest.mark.parametrize("name", ["kinds", "states", "safety", "traps", "packets", "drain", "bulk", "beside"])
def test_in_a_kernel_with_ipvs(name: str, tmp_path: Path) -> None:
    modules = GUESTS["User-mode Linux"][1] if name == "beside" else MODULES
    output = guest.run_tests(UserModeLinux(), [f"tests/kernel/test_ipvs_{name}.py"], modules, tmp_path, SECONDS)
    assert " passed" in output and " skipped" not in output


@elsewhere
def test_kernel_without_ipvs_is_told_of(netns: Namespaces, run_module: RunModule, state_dir: Path) -> None:
    assert guest.INSIDE not in os.environ
    node = netns("node")
    for check in (True, False):
        result = run_module(MODULE, {"services": [web(1)]}, netns=node, check=check, fails=True)
        assert result["error_type"] == "PrerequisiteError"
        assert result["msg"].startswith("kernel module ip_vs, which is needed for virtual servers of services, is ")
    assert not (state_dir / node.name / f"{MODULE}.json").exists()
    assert "fairlead-ipvs" not in node.out("ip link")


@elsewhere
def test_without_ipvs_there_is_nothing_to_delete_or_gather(netns: Namespaces, run_module: RunModule) -> None:
    node = netns("node")
    for check in (True, False):
        for arguments in ({}, {"services": [web(1)]}):
            result = run_module(MODULE, {**arguments, "state": "deleted"}, netns=node, check=check)
            assert not result["changed"] and result["operations"] == []
    assert run_module(MODULE, {"state": "gathered"}, netns=node)["gathered"]["services"] == []


def test_rendered_takes_no_kernel(netns: Namespaces, run_module: RunModule) -> None:
    result = run_module(MODULE, {"services": [web(1)], "state": "rendered"}, netns=netns("node"))
    assert not result["changed"]
    assert result["rendered"] == ["-A -t 10.96.0.80:80 -s rr", "-a -t 10.96.0.80:80 -r 10.244.1.1:8080 -m -w 1"]
