# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Ports where load balancers ask whether a node has endpoints of a service (``healthCheckNodePort``), and the file that
tells them to whoever answers there."""

from __future__ import annotations

import json
from typing import Iterable, List, NamedTuple

from .ip_version import FAMILIES, IpVersion
from .kubernetes.service import HIGHEST_PORT
from .parse import Section

# More endpoints than a cluster has pods.
_MANY = 1 << 20


class HealthCheck(NamedTuple):
    """Of one service ("default/web") in one IP version, with the number of its endpoints that are ready on the node."""

    service: str
    version: IpVersion
    port: int
    endpoints: int


def health_check_text(checks: Iterable[HealthCheck]) -> str:
    """JSON: ``{"checks": [{service, family: ipv4 or ipv6, port, endpoints}]}``."""
    families = {version: name for name, version in FAMILIES.items()}
    listed = [
        {"service": each.service, "family": families[each.version], "port": each.port, "endpoints": each.endpoints}
        for each in checks
    ]
    return json.dumps({"checks": listed}, indent=1) + "\n"


def parse_health_checks(text: str) -> List[HealthCheck]:
    """What ``health_check_text`` wrote. Raises SpecError naming the item, and ValueError for what is no JSON."""
    section = Section(json.loads(text))
    found = [_parsed(one) for one in section.sections("checks")]
    section.finish()
    return found


def _parsed(one: Section) -> HealthCheck:
    version = FAMILIES[one.text("family", choices=tuple(FAMILIES))]
    port, endpoints = one.integer("port", 1, HIGHEST_PORT), one.integer("endpoints", 0, _MANY)
    check = HealthCheck(one.text("service"), version, port, endpoints)
    one.finish()
    return check
