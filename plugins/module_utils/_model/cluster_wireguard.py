# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What of a declared cluster goes wrong with backend wireguard only: its preshared key, and its devices' ports."""

from __future__ import annotations

import dataclasses
import re
from typing import Optional

from .backend import WIREGUARD
from .cluster_ipv6 import ERROR, POD_CIDR6, Found, is_given
from .declared import Setting, Settings, whole_number
from .wireguard import NO_KEY, SEPARATE, WIREGUARD_PORT, WIREGUARD_PORT6, fingerprint, same_port_problem

PRESHARED_KEY = "flannel_wireguard_psk"
MODE, PORT, PORT6 = "flannel_wireguard_mode", "flannel_wireguard_listen_port", "flannel_wireguard_listen_port6"
# As ``Secret`` writes it.
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]+")


def without_secrets(settings: Settings) -> Settings:
    """The same with a fingerprint for the preshared key, where that is not what was declared already."""
    return dataclasses.replace(settings, entries=tuple(map(_without_secret, settings.entries)))


def _without_secret(entry: Setting) -> Setting:
    if entry.name != PRESHARED_KEY or entry.value is None or _FINGERPRINT.fullmatch(str(entry.value)):
        return entry
    return dataclasses.replace(entry, value=fingerprint(entry.value))


def check_wireguard(settings: Settings, backend: str) -> Found:
    """``backend`` is how packets travel."""
    for setting in settings.of(PRESHARED_KEY):
        if setting.value == NO_KEY:
            yield ERROR, setting.problem("must be a WireGuard key: 32 bytes in base64, as `wg genpsk` prints it")
    if backend == WIREGUARD and _declared(settings, POD_CIDR6) is not None:
        yield from _ports(settings)


def _ports(settings: Settings) -> Found:
    mode, entry, entry6 = (_declared(settings, name) for name in (MODE, PORT, PORT6))
    port, port6 = _number(entry, WIREGUARD_PORT), _number(entry6, WIREGUARD_PORT6)
    named = entry6 or entry
    # With the defaults there is nothing wrong, and what is no number is refused as such.
    if named is not None and port is not None and port6 is not None:
        problem = same_port_problem(SEPARATE if mode is None else str(mode.value), port, port6)
        if problem:
            yield ERROR, named.problem(problem)


def _declared(settings: Settings, name: str) -> Optional[Setting]:
    return next(filter(is_given, settings.of(name)), None)


def _number(entry: Optional[Setting], default: int) -> Optional[int]:
    return default if entry is None else whole_number(entry.value)
