# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead renew``: keep this node's subnet lease alive. Started by fairlead-lease.timer."""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

from .._desired import overlay_lease, store
from .._model.errors import FairleadError

# Exit status when trying again is of no use, because the subnet is another node's by now. The unit knows it too.
LOST = 2


def main(arguments: Sequence[str]) -> int:
    """0: the lease is alive, or none was ever taken here; 1: try again later; ``LOST``."""
    parser = argparse.ArgumentParser(
        prog="fairlead renew",
        description="Renew this node's subnet lease when less than half of its time is left, or take it again.",
    )
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--desired", default=store.DIRECTORY, metavar="DIR", help="where the saved state is")
    options = parser.parse_args(arguments)
    try:
        return _renew(options.desired, options.check)
    except FairleadError as error:
        sys.stderr.write(f"fairlead renew: {error}\n")
        return LOST if isinstance(error, overlay_lease.LostLeaseError) else 1


def _renew(directory: str, check: bool) -> int:
    document = store.load(overlay_lease.KIND, directory)
    if document is None:
        sys.stdout.write("no subnet lease was taken by this node: nothing to renew\n")
        return 0
    outcome = overlay_lease.renew(document, check)
    for operation in outcome.operations:
        sys.stdout.write(f"{operation}\n")
    return 0
