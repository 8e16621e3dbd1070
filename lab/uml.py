# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""User-mode Linux nodes: a kernel of their own, on a copy-on-write file over the shared disk image."""

from __future__ import annotations

from lab import image, network
from lab.state import Lab

#: The kernel restarts inside its own process, so no exit code ever asks for another boot.
REBOOT_CODE = None


def prepare(lab: Lab, node: str) -> None:
    """Nothing to mount: the kernel opens its files itself."""


def plug(lab: Lab, node: str) -> None:
    """A new tap on the LAN."""
    network.remove_port(lab, node)
    network.add_tap(lab, node)


def command(lab: Lab, node: str) -> list[str]:
    """What boots the node."""
    home = lab.node_dir(node)
    return [
        "nsenter", f"--net={network.namespace(lab.netns)}",
        "linux.uml", f"mem={lab.memory}M", f"umid={node}", f"uml_dir={home}/uml",
        f"ubda={home}/disk.cow,{lab.disk}", "root=/dev/ubda", "rw", "rootfstype=ext4",
        f"eth0=tuntap,{network.port(node)},{network.mac(lab, node)}", "net.ifnames=0",
        "con=null", "con0=null,fd:1", "con1=null", f"init={image.SEED_INIT}", f"fl_seed={home}/upper",
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {}
