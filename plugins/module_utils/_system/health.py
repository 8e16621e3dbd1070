# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a service on this node says that it is well, by HTTP."""

from __future__ import annotations

import time
import urllib.request
from typing import Callable

# Seconds for one answer, and between two questions.
_ANSWER, _PAUSE = 2, 0.5
# What is asked is on this node: never by way of a proxy of the environment.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str) -> str:
    """Empty when the answer is 200; else what came instead."""
    try:
        with _OPENER.open(url, timeout=_ANSWER) as answer:
            return "" if answer.status == 200 else f"status {answer.status}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def wait(url: str, seconds: int, question: Callable[[str], str] = ask) -> str:
    """Ask until all is well, for so many seconds, once at the least. Gives the last answer."""
    until = time.monotonic() + seconds
    while True:
        answer = question(url)
        if not answer or time.monotonic() >= until:
            return answer
        time.sleep(_PAUSE)
