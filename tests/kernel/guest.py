# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Tests inside another kernel: User-mode Linux over this machine's files, read only, for features that the kernel here
does not have. Boots in seconds, needs no image, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

KERNEL, MODULES = "linux.uml", Path("/usr/lib/uml/modules")
#: Set in the guest, so that a test can tell that it must not start another one.
INSIDE = "FAIRLEAD_TEST_GUEST"
MEMORY_MIB = 512
_STATUS = re.compile(r"^guest: status (\d+)\s*$", re.MULTILINE)

# Writable places are in memory.
_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run/tmp {inside}=1 PYTHONDONTWRITEBYTECODE=1
ip link set lo up
cd {root} && {python} -m tests.kernel.guest {modules} && {python} -m pytest {arguments}
echo "guest: status $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def run_tests(tests: Sequence[str], modules: Sequence[str], directory: Path, timeout: float = 120) -> str:
    """Run pytest with ``tests`` in a guest with kernel ``modules``; its output. Fails the test when they fail."""
    if shutil.which(KERNEL) is None or not MODULES.is_dir():
        pytest.skip(f"needs {KERNEL} with its modules, of package user-mode-linux")
    root = Path(__file__).resolve().parents[2]
    plain = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-q", "-rs", "--color=no", "--basetemp=/run/pytest"]
    init = directory / "init"
    words = {"inside": INSIDE, "root": root, "python": sys.executable}
    init.write_text(_INIT.format(**words, modules=" ".join(modules), arguments=" ".join([*plain, *tests])))
    init.chmod(0o755)
    with _booted(init, directory) as guest:
        output, _errors = guest.communicate(timeout=timeout)
    status = _STATUS.search(output.replace("\r", ""))
    assert status is not None and status[1] == "0", f"in the guest:\n{output[-8000:]}"
    return output


@contextlib.contextmanager
def _booted(init: Path, directory: Path) -> Iterator[subprocess.Popen[str]]:
    options = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}", "quiet"]
    console = ["con=null", "con0=null,fd:1", "con1=null", f"uml_dir={directory}", f"mem={MEMORY_MIB}M"]
    guest = subprocess.Popen(
        [KERNEL, *options, *console],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _colon, rest = line.partition(":")
        needs[Path(path).stem] = [*reversed(rest.split()), path]
    for path in dict.fromkeys(path for name in names for path in needs[name]):
        code = (directory / path).read_bytes()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.init_module(code, ctypes.c_ulong(len(code)), b"") and ctypes.get_errno() != errno.EEXIST:
            raise OSError(ctypes.get_errno(), f"cannot load {path}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    load(sys.argv[1:], MODULES / os.uname().release)
