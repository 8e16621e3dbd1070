# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a service on this node says that it is well, by HTTP."""

from __future__ import annotations

import time
import urllib.request
from typing import Callable

# Seconds for one answer, and between two questions.
_ANSWER, _PAUSE = 2, 0.5
# What is read of an answer; metrics of a service are a hundred thousand bytes.
_LONGEST = 1 << 20
# What a text says is wrong; empty for nothing.
Judge = Callable[[str], str]
# What is asked is on this node: never by way of a proxy of the environment.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, judge: Judge) -> str:
    """Empty when the answer is 200 and ``judge`` has nothing to say of its text; else what is wrong."""
    try:
        with _OPENER.open(url, timeout=_ANSWER) as answer:
            return judge(answer.read(_LONGEST).decode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def wait(url: str, seconds: int, judge: Judge) -> str:
    """Ask until all is well, for so many seconds, once at the least. Gives the last answer."""
    until = time.monotonic() + seconds
    while True:
        answer = ask(url, judge)
        if not answer or time.monotonic() >= until:
            return answer
        time.sleep(_PAUSE)
