# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The lab's one exception, and the one way it starts commands on the host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

#: Debian package of each command the lab calls.
PACKAGE_OF = {
    "ip": "iproute2",
    "ssh": "openssh-client",
    "nc": "netcat-openbsd",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "apt-config": "apt",
    "apt-ftparchive": "apt-utils",
    "systemd-nspawn": "systemd-container",
    "linux.uml": "user-mode-linux",
    "mke2fs": "e2fsprogs",
    "nft": "nftables",
}


class LabError(Exception):
    """Something the user has to know or do; the message stands alone."""


def need(*commands: str) -> None:
    """Fail unless every command is installed; one message names all missing packages."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        packages = sorted({PACKAGE_OF[command] for command in missing})
        raise LabError(
            f"missing on this host: {', '.join(missing)}; install with: apt-get install {' '.join(packages)}"
        )


def run(command: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it wrote to stdout; LabError with its stderr when it fails.

    Its standard input is its own: ssh, when it is killed, leaves a shared one such that Ansible refuses to start.
    """
    done = subprocess.run(command, input=stdin or "", env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabError(f"{' '.join(command)} failed ({done.returncode}): {said}")
    return done.stdout
