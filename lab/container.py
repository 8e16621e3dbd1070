# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Container nodes: systemd-nspawn on an overlay of the root tree, with a fresh network namespace at each boot."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

from lab import network, processes, spawn
from lab.errors import LabError, run
from lab.processes import Process
from lab.state import Lab

#: systemd(1), "Signals": start reboot.target.
_REBOOT_SIGNAL = signal.SIGRTMIN + 5
_NSPAWN_RUN = Path("/run/systemd/nspawn")
_CLONE_NEWNS = 0x00020000
_MS_REC_SLAVE = 0x4000 | 0x80000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def prepare(lab: Lab, node: str) -> None:
    """Mount the node's overlay where only this process and its children see it; it disappears with them."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    # Slave, not private: a namespace unmounted on the host must not live on in this copy of its mounts.
    _mount("none", Path("/"), None, _MS_REC_SLAVE, "")
    # systemd-nspawn leaves lock files and directories here; this way they go with the node.
    _NSPAWN_RUN.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", _NSPAWN_RUN, "tmpfs", 0, "mode=755")
    home = lab.node_dir(node)
    for folder in ("work", "root"):
        (home / folder).mkdir(exist_ok=True)
    layers = f"lowerdir={lab.root},upperdir={home}/upper,workdir={home}/work"
    _mount("overlay", home / "root", "overlay", 0, layers)


def plug(lab: Lab, node: str) -> None:
    """A new network namespace on the LAN; whatever the last boot had configured is gone with the old one."""
    binding = lab.node_dir(node) / "netns"
    _libc.umount2(os.fsencode(binding), _MNT_DETACH)
    binding.touch()
    # A new namespace inherits the host's forwarding switches; a machine that boots has them off.
    forwarding_off = "for switch in /proc/sys/net/ipv[46]/conf/all/forwarding; do echo 0 > $switch; done"
    run(["unshare", f"--net={binding}", "sh", "-c", forwarding_off])
    network.remove_port(lab, node)
    network.add_veth(lab, node, binding)


def boot(lab: Lab, node: str) -> subprocess.Popen[bytes]:
    home = lab.node_dir(node)
    command = [
        "systemd-nspawn", "--quiet", "--boot", f"--directory={home}/root",
        f"--machine={lab.netns}-{node}", f"--hostname={node}",
        "--register=no", "--keep-unit", f"--network-namespace-path={home}/netns",
        "--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_ADMIN",
        "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
    ]  # fmt: skip
    if Path("/lib/modules").is_dir():
        # With the host's list, modprobe inside succeeds for what the host has loaded.
        command.append("--bind-ro=/lib/modules")
    # Otherwise /proc/sys/net is read-only inside, and no sysctl of the node's namespace can be set.
    return spawn.held(command, environment={"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"})


def reboot(node: str, nspawn: Process) -> None:
    """Ask the node's systemd for a reboot."""
    leaders = processes.children(nspawn.pid)
    if not leaders or not processes.send(leaders[0], _REBOOT_SIGNAL):
        raise LabError(f"node {node} is just starting or stopping; try again")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str) -> None:
    name = kind.encode() if kind else None
    code = _libc.mount(source.encode(), os.fsencode(target), name, flags, options.encode())
    _check(code, f"mount {source} on {target} ({options})")


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
