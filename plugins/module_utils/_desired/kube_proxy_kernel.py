# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel modules and sysctls of kube-proxy's mode, in files of their own beside those of the node."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from .._engine import Outcome
from .._model.errors import SpecError
from .._model.kernel import parse_kernel_settings
from .._model.kube_proxy import kernel_modules, optional_sysctls, sysctls
from .._model.kube_proxy_options import KubeProxy
from .._system.kernel_modules import is_there
from .._system.runner import Runner
from . import kernel_settings, store

KIND = "kube_proxy_kernel"
FILES = {
    "modules_file": "/etc/modules-load.d/fairlead-kube-proxy.conf",
    "sysctl_file": "/etc/sysctl.d/91-fairlead-kube-proxy.conf",
    "found_file": "/var/lib/fairlead/found/kube_proxy_sysctls.json",
}
_NODE = "kernel_settings"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: see ``kernel_settings``."""
    return kernel_settings.converge(document, check, runner)


def document_of(proxy: KubeProxy) -> Dict[str, Any]:
    """What the node does not declare by itself already. Raises SpecError for what it declares otherwise."""
    own = {"sysctls": sysctls(proxy), "optional_sysctls": optional_sysctls(proxy)}
    node = _declared_for_node()
    for values in own.values():
        for name, value in values.items():
            if name in node and node[name] != str(value):
                text = f"is {node[name]} among the node's sysctls, and kube-proxy is told to set {value}"
                raise SpecError(name, f"{text}; leave it out of node_extra_sysctls, or make both equal")
    theirs = {key: {name: each for name, each in values.items() if name not in node} for key, values in own.items()}
    return {"modules": kernel_modules(proxy), **theirs, **FILES}


def with_earlier(document: Mapping[str, Any], earlier: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """``document``, and of an earlier one what the mode before rests on for as long as it serves. Of that, only what
    the kernel still has, and what the node has not come to declare by itself."""
    settings = parse_kernel_settings(earlier or FILES)
    node = _declared_for_node()
    before = {**settings.optional, **settings.sysctls}
    kept = {name: value for name, value in before.items() if name not in node and name not in document["sysctls"]}
    modules = [name for name in settings.modules if name not in document["modules"] and is_there(name)]
    return {
        **document,
        "modules": [*document["modules"], *modules],
        "optional_sysctls": {**kept, **document["optional_sysctls"]},
    }


def _declared_for_node() -> Dict[str, str]:
    document = store.load(_NODE)
    if document is None:
        return {}
    settings = parse_kernel_settings(document)
    return {**settings.optional, **settings.sysctls}
