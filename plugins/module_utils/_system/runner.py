# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How the library starts a command: never itself, always through what its caller hands in."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Optional, Protocol, Sequence, Tuple

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Runs the other arguments with files "in", "out" and "err" of the directory named first. run_command has pipes instead.
# A command that ends without reading its input is then a failure of run_command. And what it writes in the moment
# before its end is lost when run_command has just waited for a second in vain: it leaves its loop when the last wait
# brought nothing and the process has ended since (ansible-core 2.19, module_utils/basic.py).
_WITH_FILES = ("/bin/sh", "-c", 'd=$1; shift; exec "$@" <"$d/in" >"$d/out" 2>"$d/err"', "sh")


class Runner(Protocol):
    def __call__(self, args: Sequence[str], data: Optional[str] = None) -> Tuple[int, str, str]:
        """Run ``args`` with ``data`` on standard input. Gives exit status, output and error output as text.

        A command that does not exist gives status 127.
        """


def module_runner(module: AnsibleModule) -> Runner:
    """A runner on ``module.run_command``."""

    def run(args: Sequence[str], data: Optional[str] = None) -> Tuple[int, str, str]:
        path = module.get_bin_path(args[0])
        if path is None:
            return 127, "", f"{args[0]}: command not found"
        with tempfile.TemporaryDirectory(dir=module.tmpdir) as directory:
            _write(os.path.join(directory, "in"), data or "")
            status, output, error = module.run_command([*_WITH_FILES, directory, path, *args[1:]])
            # The shell's own words are about what it could not start.
            written = [_read(os.path.join(directory, name)) for name in ("out", "err")]
        return int(status), written[0] + str(output), written[1] + str(error)

    return run


def _write(path: str, data: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write(data)


def _read(path: str) -> str:
    """Empty for a file that the shell did not come to make."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
