# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How the library starts a command: never itself, always through what its caller hands in."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Iterator, Optional, Protocol, Sequence, Tuple

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Runs the other arguments with the file named first as standard input. run_command writes into a pipe instead, and a
# command that ends without reading is then a failure of run_command: output and reason of the command would be lost.
_WITH_INPUT = ("/bin/sh", "-c", 'input=$1; shift; exec "$@" <"$input"', "sh")


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
        command = [path, *args[1:]]
        if data is None:
            status, output, error = module.run_command(command)
        else:
            with _input_file(module, data) as name:
                status, output, error = module.run_command([*_WITH_INPUT, name, *command])
        return int(status), str(output), str(error)

    return run


@contextlib.contextmanager
def _input_file(module: AnsibleModule, data: str) -> Iterator[str]:
    handle, name = tempfile.mkstemp(dir=module.tmpdir)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(data)
        yield name
    finally:
        os.unlink(name)
