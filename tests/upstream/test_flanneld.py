# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What these tests rely on: the build is the one that is pinned, and runs on kernels without br_netfilter too."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kernel.namespaces import Namespaces
from tests.upstream import builds
from tests.upstream.conftest import Programs
from tests.upstream.flanneld import WITH_BRIDGE_FILES


def test_program_is_the_pinned_release(programs: Programs) -> None:
    program = programs(builds.FLANNEL) / "flanneld"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    # klog writes to standard error.
    assert (done.stdout + done.stderr).strip() == builds.FLANNEL_VERSION


def test_bridge_files_can_be_put_where_the_kernel_has_none(netns: Namespaces, tmp_path: Path) -> None:
    """The rest of /proc/sys/net goes on to be that of the namespace."""
    node = netns("n1")
    script = (
        "cat /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables;"
        "echo 0 >/proc/sys/net/ipv4/conf/lo/forwarding; ls /proc/sys/net/bridge; ls /proc/sys/net/ipv4/conf"
    )
    node.run("ip link add here type bridge")
    shown = node.out(["sh", "-c", WITH_BRIDGE_FILES, "sh", str(tmp_path), "sh", "-c", script]).split()
    assert shown[:4] == ["1", "1", "bridge-nf-call-ip6tables", "bridge-nf-call-iptables"]
    assert sorted(shown[4:]) == ["all", "default", "here", "lo"]
