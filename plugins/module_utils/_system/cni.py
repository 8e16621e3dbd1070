# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Calling CNI plugins as a runtime does (CNI specification, sections "Execution Protocol" and "Execution of
Network Configurations"): order, environment, what goes in and comes out, what errors mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._model.cni import ConfList
from .._model.errors import ApplyError, FairleadError, PrerequisiteError
from .runner import Runner

ADD, CHECK, DEL, VERSION = "ADD", "CHECK", "DEL", "VERSION"
# Specification, section "Error"; numbers from 100 on are the plugin's own.
_MEANINGS = {
    1: "incompatible CNI version",
    2: "unsupported field in the configuration",
    3: "container unknown or gone",
    4: "invalid environment variable",
    5: "input or output failed",
    6: "content cannot be decoded",
    7: "invalid network configuration",
    11: "busy, try again later",
    50: "not available",
    51: "not available, and containers have limited connectivity",
}
_OTHER_FAMILY = re.compile(r"could not check ipv([46]) dnat: chain \S+ not found")
# Plugins call iptables and the like; a session without login may lack the administrator's directories.
_ADMIN_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class PluginError(ApplyError):
    """A plugin refused. ``code`` is the specification's number, 0 when the plugin gave no proper answer."""

    def __init__(self, plugin: str, command: str, code: int, reason: str) -> None:
        meaning = f" (code {code}, {_MEANINGS.get(code, 'an error of its own')})" if code else ""
        super().__init__(f"CNI plugin {plugin}", f"{command} failed{meaning}: {reason}")
        self.plugin = plugin
        self.code = code


@dataclasses.dataclass(frozen=True)
class Target:
    """What one run of the chain is about. ``capability_args`` by the name of the capability."""

    container_id: str
    netns: str
    ifname: str
    capability_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Plugins:
    """The plugin programs found in ``directories``, the first one that has a program wins."""

    def __init__(self, runner: Runner, directories: Sequence[str]) -> None:
        self.runner = runner
        self.directories = list(directories)

    def add(self, conflist: ConfList, target: Target) -> Dict[str, Any]:
        """Attach. Gives the result of the last plugin; on failure what was begun is taken back."""
        result: Optional[Dict[str, Any]] = None
        try:
            for plugin in conflist.plugins:
                result = self._call(ADD, conflist, plugin, target, result)
        except FairleadError:
            self._take_back(conflist, target)
            raise
        if result is None:
            raise PluginError(str(conflist.plugins[-1]["type"]), ADD, 0, "it gave no result")
        return result

    def check(self, conflist: ConfList, target: Target, result: Mapping[str, Any]) -> None:
        """Raise PluginError when a plugin finds that the attachment is not as its ADD left it.

        A list that forbids CHECK, or is of a version without it, passes.
        """
        if conflist.disable_check or not conflist.knows_check:
            return
        for plugin in conflist.plugins:
            try:
                self._call(CHECK, conflist, plugin, target, result)
            except PluginError as error:
                if not _is_false_alarm(error, result):
                    raise

    def delete(self, conflist: ConfList, target: Target, result: Optional[Mapping[str, Any]]) -> None:
        """Detach. ``result`` is that of ADD, None when it is lost. Things already gone are no failure."""
        previous = result if conflist.knows_check else None
        for plugin in reversed(conflist.plugins):
            self._call(DEL, conflist, plugin, target, previous)

    def _take_back(self, conflist: ConfList, target: Target) -> None:
        # The reason of the failed ADD is what the user needs; a later DEL meets the same leftovers.
        with contextlib.suppress(FairleadError):
            self.delete(conflist, target, None)

    def problems(self, conflist: ConfList) -> List[str]:
        """Why this node's plugins cannot carry the list, one line each."""
        missing = [name for name in conflist.programs if self.path_of(name) is None]
        there = [name for name in conflist.programs if name not in missing]
        answers = (self._version_problem(name, conflist.cni_version) for name in there)
        problems = [problem for problem in answers if problem]
        if missing:
            problems.insert(0, f"CNI plugins {', '.join(missing)}: in none of {', '.join(self.directories)}")
        return problems

    def _version_problem(self, name: str, wanted: str) -> str:
        try:
            versions = self.versions(name)
        except PluginError as error:
            return str(error)
        known = ", ".join(versions) or "none"
        return "" if wanted in versions else f"CNI plugin {name} does not support cniVersion {wanted}; it has {known}"

    def path_of(self, plugin: str) -> Optional[str]:
        paths = (os.path.join(directory, plugin) for directory in self.directories)
        return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)

    def versions(self, plugin: str) -> List[str]:
        """Versions of the specification that the plugin says it supports."""
        answer = self._run(plugin, VERSION, {}, {"cniVersion": "1.0.0"}) or {}
        return [str(version) for version in answer.get("supportedVersions") or []]

    def _call(
        self,
        command: str,
        conflist: ConfList,
        plugin: Mapping[str, Any],
        target: Target,
        previous: Optional[Mapping[str, Any]],
    ) -> Optional[Dict[str, Any]]:
        environment = {
            "CNI_CONTAINERID": target.container_id,
            "CNI_NETNS": target.netns,
            "CNI_IFNAME": target.ifname,
            "CNI_PATH": ":".join(self.directories),
        }
        config = _config_for(conflist, plugin, target.capability_args, previous)
        return self._run(str(plugin["type"]), command, environment, config)

    def _run(
        self, plugin: str, command: str, environment: Mapping[str, str], config: Mapping[str, Any]
    ) -> Optional[Dict[str, Any]]:
        program = self.path_of(plugin)
        if program is None:
            raise PrerequisiteError(
                f"CNI plugin {plugin} is in none of {', '.join(self.directories)}; "
                f"apply role fairlead.cluster.cni first"
            )
        variables = [f"{name}={value}" for name, value in {"CNI_COMMAND": command, **environment}.items()]
        call = ["env", f"PATH={_search_path()}", *variables, program]
        status, output, error = self.runner(call, json.dumps(config))
        answer = _json_of(output)
        if status != 0:
            raise _error_of(plugin, command, answer, f"{error.strip()} {output.strip()}".strip() or f"status {status}")
        if output.strip() and answer is None:
            raise PluginError(plugin, command, 0, f"its answer is no JSON mapping: {output.strip()[:200]}")
        return answer


def _is_false_alarm(error: PluginError, result: Mapping[str, Any]) -> bool:
    """Whether portmap missed its chain in the tables of an address family that the container does not have.

    containernetworking/plugins issue 819; Debian 12 has it. IPv4 is checked first, so nothing else is passed over.
    """
    missed = _OTHER_FAMILY.search(error.reason)
    if error.plugin != "portmap" or missed is None:
        return False
    addresses = [str(ip["address"]) for ip in result.get("ips") or []]
    return all((":" in address) != (missed.group(1) == "6") for address in addresses)


def _search_path() -> str:
    have = os.environ.get("PATH", os.defpath).split(":")
    return ":".join([*have, *(directory for directory in _ADMIN_PATH if directory not in have)])


def _config_for(
    conflist: ConfList,
    plugin: Mapping[str, Any],
    capability_args: Mapping[str, Any],
    previous: Optional[Mapping[str, Any]],
) -> Dict[str, Any]:
    """What a plugin reads: its own part of the list, completed (section "Deriving execution configuration")."""
    config = {key: value for key, value in plugin.items() if key != "capabilities"}
    config.update(name=conflist.name, cniVersion=conflist.cni_version)
    declared = plugin.get("capabilities") or {}
    runtime = {name: capability_args[name] for name, wanted in declared.items() if wanted and name in capability_args}
    if runtime:
        config["runtimeConfig"] = runtime
    if previous is not None:
        config["prevResult"] = previous
    return config


def _json_of(output: str) -> Optional[Dict[str, Any]]:
    try:
        data = json.loads(output)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _error_of(plugin: str, command: str, answer: Optional[Mapping[str, Any]], otherwise: str) -> PluginError:
    if answer is None or "msg" not in answer:
        return PluginError(plugin, command, 0, otherwise)
    details = f"; {answer['details']}" if answer.get("details") else ""
    return PluginError(plugin, command, int(answer.get("code") or 0), f"{answer['msg']}{details}")
