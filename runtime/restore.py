# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead restore``: bring back at boot what was applied last. One line for each change and each failure."""

from __future__ import annotations

import argparse
import time
import traceback
from typing import Sequence

from .._model.errors import FairleadError, PrerequisiteError
from . import documents

# Network cards and addresses come while the boot goes on. Switches after a power failure may take longer: then the
# unit of systemd tries again.
WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.25
# Lines for each kind. A large cluster has thousands of routes, and a journal rotates.
_SHOWN = 50


def main(arguments: Sequence[str]) -> int:
    """0 when everything is as saved, 1 when a kind failed."""
    parser = argparse.ArgumentParser(prog="fairlead restore", description="Apply the saved desired state, as at boot.")
    parser.add_argument(
        "--wait",
        type=float,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="how long to wait, in all, for what the network rests on, such as an interface (%(default)s)",
    )
    return restore(parser.parse_args(arguments).wait)


def restore(wait: float) -> int:
    """A failed kind does not keep the others from being tried."""
    deadline = time.monotonic() + wait
    kinds = documents.saved_kinds()
    failed = [kind for kind in kinds if not _restore(kind, deadline)]
    if failed:
        print(f"restored {len(kinds) - len(failed)} of {len(kinds)}; failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _restore(kind: str, deadline: float) -> bool:
    """Whether the kind is as saved now. What it rests on may still be missing: tries until the deadline."""
    waiting = False
    while True:
        try:
            _report(kind)
            return True
        except documents.NothingSavedError:
            return True
        except PrerequisiteError as error:
            if isinstance(error, documents.UnknownKindError) or time.monotonic() >= deadline:
                return _fail(kind, str(error))
            if not waiting:
                print(f"{kind}: waiting: {error}", flush=True)
                waiting = True
            time.sleep(_POLL_SECONDS)
        except FairleadError as error:
            return _fail(kind, str(error))
        except Exception:
            return _fail(kind, traceback.format_exc())


def _report(kind: str) -> None:
    operations = documents.converge(kind, check=False).operations
    for operation in operations[:_SHOWN]:
        print(f"{kind}: {operation}")
    more = f", of which {len(operations) - _SHOWN} are not shown" if len(operations) > _SHOWN else ""
    print(f"{kind}: restored, {len(operations)} changes{more}", flush=True)


def _fail(kind: str, reason: str) -> bool:
    print(f"{kind}: failed: {reason}", flush=True)
    return False
