# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy as declared in an inventory: the same reading of its variables as on the node, for each node."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from .cluster_ipv6 import ERROR, WARNING, Found
from .declared import Problem, Setting, Settings
from .errors import SpecError
from .kube_proxy_checks import problems_of, warnings
from .kube_proxy_options import PREFIX, KubeProxy, known
from .kube_proxy_values import boolean

ENABLED, API_SERVER = "cluster_kube_proxy", "cluster_api_server"
METHOD, ARCHITECTURE, CHECKSUMS = f"{PREFIX}install_method", f"{PREFIX}archive_arch", f"{PREFIX}archive_sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Reported with the networks themselves.
_CHECKED_ELSEWHERE = ("cluster_pod_cidr", "cluster_pod_cidr6", "cluster_service_cidr")


def check_kube_proxy(settings: Settings, nodes: Sequence[str]) -> Found:
    """Nodes that declare the same are checked once. Nothing to do where no variable of kube-proxy is declared."""
    seen: List[Dict[str, Any]] = []
    for node in nodes:
        declared = _declared(settings, node)
        document = {name: setting.value for name, setting in declared.items()}
        if document not in seen and any(name not in _CHECKED_ELSEWHERE for name in document):
            seen.append(document)
            yield from _of_node(declared, document)


def _declared(settings: Settings, node: str) -> Dict[str, Setting]:
    """What has a value by now; the rest is known on the node only."""
    names = (*known(), ENABLED, METHOD, ARCHITECTURE, CHECKSUMS)
    found = ((name, settings.on(node, name)) for name in names)
    return {name: setting for name, setting in found if setting is not None and not setting.unresolved}


def _of_node(declared: Mapping[str, Setting], document: Mapping[str, Any]) -> Found:
    proxy, errors = problems_of({name: value for name, value in document.items() if name in known()})
    enabled = _is_enabled(document)
    if enabled:
        errors += [*_missing(proxy), *_release(document)]
    for level, problems in ((ERROR, errors), (WARNING, warnings(proxy) if enabled else [])):
        for problem in problems:
            if not (problem.path in _CHECKED_ELSEWHERE and problem.path in document):
                yield level, _placed(problem, declared)


def _is_enabled(document: Mapping[str, Any]) -> bool:
    try:
        return boolean(document.get(ENABLED, False), ENABLED)
    except SpecError:
        return False


def _missing(proxy: KubeProxy) -> Iterator[SpecError]:
    if not proxy.values[API_SERVER]:
        yield SpecError(API_SERVER, f"is not set, and {ENABLED} is true; set the URL of the Kubernetes API server")


def _release(document: Mapping[str, Any]) -> Iterator[SpecError]:
    """A release is only ever taken by its checksum."""
    if document.get(METHOD, "archive") != "archive":
        return
    sums, architecture = document.get(CHECKSUMS), document.get(ARCHITECTURE, "amd64")
    found = sums.get(architecture) if isinstance(sums, Mapping) else None
    if not isinstance(found, str) or not _SHA256.fullmatch(found):
        text = (
            f"has no SHA-256 for {architecture}, 64 hexadecimal digits; that of the archive that {PREFIX}version names"
        )
        yield SpecError(CHECKSUMS, text)


def _placed(problem: SpecError, declared: Mapping[str, Setting]) -> Problem:
    """Under the name and place of the declaration; a problem of a default has none."""
    name, rest = _split(problem.path)
    setting = declared.get(name)
    if setting is None:
        return Problem(problem.path, problem.problem)
    return Problem(setting.path + rest, problem.problem, setting.where)


def _split(path: str) -> Tuple[str, str]:
    end = min(found for found in (path.find("["), path.find("."), len(path)) if found >= 0)
    return path[:end], path[end:]
