# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""User-mode Linux nodes: a kernel of their own, on a copy-on-write file over the shared disk image."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from pathlib import Path

from lab import image, network, spawn
from lab.errors import LabError
from lab.state import Lab, run_dir

#: To reboot, the kernel executes argv[0] anew in its own process. There its old descriptors would keep the
#: tap busy and leave the node without a network; so argv[0] is this script, which tells the supervisor.
_REBOOT = "#!/bin/sh\nexit 133\n"


#: Management console of the kernel: datagrams of magic, protocol version, length and command
#: (struct mconsole_request, arch/um/drivers/mconsole.h).
_MCONSOLE = struct.Struct("=III512s")
_MCONSOLE_MAGIC, _MCONSOLE_VERSION = 0xCAFEBABE, 2


def prepare(lab: Lab, node: str) -> None:
    script = lab.node_dir(node) / "reboot"
    script.write_text(_REBOOT)
    script.chmod(0o755)


def plug(lab: Lab, node: str) -> None:
    """A new tap on the LAN."""
    shutil.rmtree(_console(lab, node).parent, ignore_errors=True)
    network.remove_port(lab, node)
    network.add_tap(lab, node)


def boot(lab: Lab, node: str) -> subprocess.Popen[bytes]:
    home = lab.node_dir(node)
    command = [
        str(home / "reboot"), f"mem={lab.memory}M", f"umid={node}", f"uml_dir={_console(lab, node).parent.parent}",
        f"ubda={home}/disk.cow,{lab.disk}", "root=/dev/ubda", "rw", "rootfstype=ext4",
        f"eth0=tuntap,{network.port(node)},{network.mac(lab, node)}", "net.ifnames=0",
        "con=null", "con0=null,fd:1", "con1=null", f"init={image.SEED_INIT}", f"fl_seed={home}/upper",
    ]  # fmt: skip
    return spawn.held(command, executable=shutil.which("linux.uml"), namespace=network.namespace(lab.netns))


def reboot(lab: Lab, node: str) -> None:
    """Press Ctrl-Alt-Del: the node's systemd shuts down and reboots. Nothing waits for the console's answer,
    which need not come before the kernel ends."""
    command = b"cad"
    request = _MCONSOLE.pack(_MCONSOLE_MAGIC, _MCONSOLE_VERSION, len(command), command)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as console:
        try:
            console.sendto(request, str(_console(lab, node)))
        except OSError as error:
            raise LabError(f"node {node}: its kernel does not listen ({error}); try again") from None


def _console(lab: Lab, node: str) -> Path:
    # Below /run, because a socket's path has room for 107 bytes only.
    return run_dir(lab.name) / "uml" / node / "mconsole"
