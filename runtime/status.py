# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""``fairlead status``: what is on this node, at a glance."""

from __future__ import annotations

import argparse
import os
import time
from typing import Sequence

from .._desired import store
from . import documents
from .verify import drift


def main(arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(
        prog="fairlead status", description="Show version, saved desired state and number of differences."
    ).parse_args(arguments)
    print(f"fairlead {version()}")
    for kind in documents.saved_kinds():
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(os.path.getmtime(store.path_of(kind))))
        differences = len(drift(kind))
        print(f"{kind:<24} saved {saved}  {f'{differences} differences' if differences else 'as saved'}")
    return 0


def version() -> str:
    """The name of the directory this tree lives in, which is PATH/VERSION/lib/fairlead/agent."""
    return os.path.basename(os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))
