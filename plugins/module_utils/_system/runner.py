# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""How the library starts a command: never itself, always through what its caller hands in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Protocol, Sequence, Tuple

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


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
        status, output, error = module.run_command(command, data=data, binary_data=True, handle_exceptions=True)
        return int(status), str(output), str(error)

    return run
