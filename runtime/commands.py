# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead COMMAND``: the table of commands. Only the module of the command that is called gets imported.

Such a module has ``main(arguments)``, which gives the exit status: 0 for success, 1 for a failure or a difference that
its output names.
"""

from __future__ import annotations

import importlib
import sys
from typing import Optional, Sequence

# Command, which is also the name of the module beside this one: what it does.
COMMANDS = {
    "restore": "apply the saved desired state, as at boot",
    "verify": "tell where the node differs from the saved desired state",
    "status": "show version, saved desired state and number of differences",
    "renew": "keep this node's subnet lease alive",
    "health": "answer health checks of load balancers",
    "probe": "prove connectivity between nodes and pods",
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _usage(words)
    name, *arguments = words
    return int(importlib.import_module(f".{name}", __package__).main(arguments))


def _usage(words: Sequence[str]) -> int:
    asked = words[:1] in (["-h"], ["--help"], ["help"])
    problem = [] if asked or not words else [f"fairlead: no command {words[0]!r}"]
    table = [f"  {name:<12} {purpose}" for name, purpose in COMMANDS.items()]
    lines = [*problem, "usage: fairlead COMMAND [OPTION...]", *table, "Options of a command: fairlead COMMAND --help"]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
