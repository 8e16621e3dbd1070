# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Tests inside another kernel, over this machine's files, read only, for features that the kernel here does not have.

A guest starts for one run of pytest, needs no image, and leaves nothing behind. `guest_uml` has User-mode Linux, which
boots in seconds; `guest_debian` the distribution's stock kernel, which has everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from lab import state
from tests.waiting import INSIDE_GUEST

#: Set in the guest, so that a test can tell that it must not start another one.
INSIDE = INSIDE_GUEST
#: Only what hangs takes as long: tests of a guest last a minute, and several times that on a busy machine.
RUN_SECONDS = 1200.0
MEMORY_MIB = 512
# The kernel may begin its own words on the same line.
_STATUS = re.compile(r"^guest: status (\d+)\b", re.MULTILINE)

# Writable places are in memory. The first process must not end, and the files may be gone before all power is off. A
# kernel's own /dev has no name for standard input, by which nft reads it.
_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns
[ -L /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run/tmp {inside}=1 PYTHONDONTWRITEBYTECODE=1
export FAIRLEAD_CACHE={cache}
read -r up idle < /proc/uptime
echo "guest: up after $up s"
ip link set lo up
cd {root} && {python} -m tests.kernel.guest {directory} {modules} && {command}
echo "guest: status $?"
echo o > /proc/sysrq-trigger
while :; do :; done
"""


class Kernel(Protocol):
    """A way to boot another kernel."""

    def modules(self) -> Path:
        """The directory with its modules below the name of its release. Skips the test where the kernel is missing."""

    def command(self, init: Path, directory: Path, tap: str = "") -> list[str]:
        """What starts it with program ``init`` as its first process and the console on standard output.

        ``directory`` is for files of the run. With ``tap``, a device where the command is started, eth0 leads there.
        """


def run_tests(
    kernel: Kernel, tests: Sequence[str], modules: Sequence[str], directory: Path, timeout: float = RUN_SECONDS
) -> str:
    """Run pytest with ``tests`` in a guest with kernel ``modules``; its output. Fails the test when they fail."""
    plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-q", "-rs", "--color=no", "--basetemp=/run/pytest"]
    # Files of tests that are done would fill the memory.
    plain += ["-o", "tmp_path_retention_policy=failed"]
    return run_command(kernel, [sys.executable, "-m", "pytest", *plain, *tests], modules, directory, timeout)


def run_command(kernel: Kernel, command: Sequence[str], modules: Sequence[str], directory: Path, timeout: float) -> str:
    """Run a command in a guest, at the top of the checkout; its output. An AssertionError when it fails."""
    available = kernel.modules()
    root = Path(__file__).resolve().parents[2]
    init = directory / "init"
    words = {
        "inside": INSIDE, "root": root, "python": sys.executable, "directory": available, "cache": state.CACHE,
    }  # fmt: skip
    init.write_text(_INIT.format(**words, modules=" ".join(modules), command=shlex.join(command)))
    init.chmod(0o755)
    with _booted(kernel.command(init, directory)) as guest:
        output = _output_of(guest, timeout)
    status = _STATUS.search(output.replace("\r", ""))
    assert status is not None and status[1] == "0", f"in the guest:\n{output[-8000:]}"
    return output


def _output_of(guest: subprocess.Popen[str], timeout: float) -> str:
    """What it wrote until it ended or its time was up."""
    try:
        return guest.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired as expired:
        # Bytes, whatever the stream is.
        said = expired.stdout.decode(errors="replace") if isinstance(expired.stdout, bytes) else expired.stdout
        return f"{said or ''}\nnot done after {timeout} s"


@contextlib.contextmanager
def _booted(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    guest = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Its helper processes end with it: they are one group.
        start_new_session=True,
    )
    try:
        yield guest
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.communicate()


def load(names: Sequence[str], directory: Path) -> None:
    """Load kernel modules of a directory with everything that they need, which does not take modprobe."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in with_needed(names, directory):
        code = (directory / path).read_bytes()
        if libc.init_module(code, ctypes.c_ulong(len(code)), b"") and ctypes.get_errno() != errno.EEXIST:
            raise OSError(ctypes.get_errno(), f"cannot load {path}: {os.strerror(ctypes.get_errno())}")


def with_needed(names: Sequence[str], directory: Path) -> list[str]:
    """Paths in a directory of modules of the named ones and of what they need, in an order in which they load."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _colon, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).stem: path for path in needs}
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for needed in needs[path]:
            add(needed)
        ordered.setdefault(path)

    for name in names:
        add(by_name[name])
    return list(ordered)


if __name__ == "__main__":
    load(sys.argv[2:], Path(sys.argv[1]) / os.uname().release)
