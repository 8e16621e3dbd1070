# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead verify``: compare the node with what was applied last. Changes nothing."""

from __future__ import annotations

import argparse
import traceback
from typing import List, Sequence

from .._model.errors import FairleadError
from . import documents


def main(arguments: Sequence[str]) -> int:
    """0 when nothing differs, 1 when something does or could not be compared. One line for each difference."""
    argparse.ArgumentParser(
        prog="fairlead verify", description="Tell where the node differs from the saved desired state; change nothing."
    ).parse_args(arguments)
    kinds = documents.saved_kinds()
    lines = [f"{kind}: {line}" for kind in kinds for line in drift(kind)]
    print("\n".join(lines or [f"no drift: {', '.join(kinds) or 'nothing saved'}"]))
    return 1 if lines else 0


def drift(kind: str) -> List[str]:
    """What it would take to be as saved, one line an operation; the reason when that cannot be said."""
    try:
        return [str(operation) for operation in documents.converge(kind, check=True).operations]
    except documents.NothingSavedError:
        return []
    except FairleadError as error:
        return [f"cannot be compared: {error}"]
    except Exception:
        return [f"cannot be compared: {traceback.format_exc()}"]
