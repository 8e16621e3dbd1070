# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The far end of the SSH connection is found, also from below a sudo that took the variable away."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = (
    "from ansible_collections.fairlead.cluster.plugins.module_utils._system.controller import controller_address;"
    "print(controller_address())"
)


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ("203.0.113.7 51000 192.0.2.1 22", "203.0.113.7"),
        ("2001:db8::7 51000 2001:db8::1 22", "2001:db8::7"),
        ("fe80::7%eth0 51000 fe80::1%eth0 22", "fe80::7"),
    ],
)
@pytest.mark.parametrize("wrapper", [[], ["env", "-u", "SSH_CONNECTION"]], ids=["direct", "below sudo"])
def test_address_of_the_controller(connection: str, address: str, wrapper: list[str]) -> None:
    environment = {**os.environ, "SSH_CONNECTION": connection, "PYTHONPATH": os.pathsep.join(sys.path)}
    # A shell that stays between, as sshd's does.
    script = 'trap : EXIT; "$@"'
    command = ["sh", "-c", script, "sh", *wrapper, sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == address
