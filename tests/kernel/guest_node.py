# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that stays, as a node on a tap device of a namespace, and does what it is told.

Its files are this machine's, read only; /run is its own and in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.kernel import guest, inside
from tests.kernel.guest import Kernel
from tests.kernel.namespaces import Namespace
from tests.kernel.packet_filters import MULTI

PORT = 7780
BOOT_SECONDS = 600
_TAP = "tap0"
# The shell stays the first process: it collects processes that nobody waits for, as whoever waits for an end expects.
_IPTABLES = tuple(f"{family}tables{suffix}" for family in ("ip", "ip6") for suffix in ("", "-save", "-restore"))
_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns /run/bin
[ -L /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
for name in {names}; do ln -s /usr/sbin/{multi} /run/bin/$name; done
export PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run/tmp {inside}=1 PYTHONDONTWRITEBYTECODE=1
cd {root}
{python} -m tests.kernel.guest {modules_dir} {modules}
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
ip link set eth0 up
{addresses}
{python} -m tests.kernel.guest_agent {address} {port}
"""


class GuestNode:
    """Up when made. ``addresses`` are those of eth0 with their prefix lengths, of which the first one is IPv4.

    The namespace gets device ``tap0`` with the addresses ``host``. ``iptables`` is the kind that commands of that name
    are of. Skips the test where there is no such kernel.
    """

    def __init__(
        self,
        kernel: Kernel,
        namespace: Namespace,
        directory: Path,
        addresses: Sequence[str],
        host: Sequence[str],
        modules: Sequence[str],
        # The other kind needs what nftables of User-mode Linux lacks.
        iptables: str = "iptables-legacy",
    ) -> None:
        self.namespace, self.directory = namespace, directory
        self.address = addresses[0].partition("/")[0]
        available = kernel.modules()
        init = directory / "init"
        init.write_text(
            _INIT.format(
                names=" ".join(_IPTABLES),
                multi=MULTI[iptables],
                inside=guest.INSIDE,
                root=Path(__file__).resolve().parents[2],
                python=sys.executable,
                modules_dir=available,
                modules=" ".join(modules),
                addresses="\n".join(f"ip address add {address} dev eth0" for address in addresses),
                address=self.address,
                port=PORT,
            )
        )
        init.chmod(0o755)
        namespace.run(f"ip tuntap add {_TAP} mode tap")
        namespace.run(["sh", "-c", "".join(f"ip address add {address} dev {_TAP};" for address in host)])
        namespace.run(f"ip link set {_TAP} up")
        command = kernel.command(init, directory, _TAP)
        with self.console.open("w") as console:
            self._process = namespace.start(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    def _await(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.run(["true"], timeout=60)
                return
            assert self._process.poll() is None and time.monotonic() < end, f"no guest:\n{self.words()}"
            time.sleep(0.2)

    def words(self) -> str:
        """The end of what its kernel and first process said."""
        return self.console.read_text(errors="replace")[-3000:]

    def run(
        self, command: str | Sequence[str], *, check: bool = True, data: str | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """As of a namespace: run a command inside to its end; with ``check`` a failure fails the test."""
        words = command.split() if isinstance(command, str) else list(command)
        request = json.dumps({"command": words, "data": data, "timeout": timeout})
        with inside.connected(self.namespace, self.address, PORT, timeout + 5) as connection:
            connection.sendall(request.encode() + b"\n")
            with connection.makefile("r", encoding="utf-8") as stream:
                line = stream.readline()
        if not line:
            raise ConnectionError(f"the guest did not answer:\n{self.words()}")
        answer = json.loads(line)
        done = subprocess.CompletedProcess(words, answer["status"], answer["stdout"], answer["stderr"])
        assert not check or done.returncode == 0, (
            f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def out(self, command: str | Sequence[str]) -> str:
        return self.run(command).stdout

    def launch(self, command: Sequence[str], log: str) -> int:
        """Start a command that goes on, with its words in a file of the guest; its process id."""
        # Without an end of the agent's pipes, which would wait for it.
        script = 'log=$1; shift; "$@" </dev/null >"$log" 2>&1 & echo $!'
        return int(self.out(["sh", "-c", script, "sh", log, *command]))

    def stop(self) -> None:
        """As a loss of power."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
