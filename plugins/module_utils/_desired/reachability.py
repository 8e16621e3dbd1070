# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Probe responders on a node, and probes from it. Nothing of it is remembered: it lasts as long as a verification."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence

from .._engine import Outcome
from .._engine import converge as engine_converge
from .._model.errors import PrerequisiteError, ReadError
from .._model.item import state_of
from .._model.reachability import NODE_POD, Responder, Target, netns_path, parse_targets, result_of
from .._plan.operation import difference
from .._system.responders import ResponderAdapter
from .._system.runner import Runner

POD_UNIT, NODE_UNIT = "fairlead-probe-pod.service", "fairlead-probe-node.service"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Document: ``{state, netns, port, command, lifetime}``; state "listening" has responders, any other none."""
    port, netns = document["port"], netns_path(document["netns"] or "")
    responders = []
    if document["state"] == "listening":
        responders.append(Responder(NODE_UNIT, "", port))
        if netns:
            responders.append(Responder(POD_UNIT, netns, port))
    want = state_of(responders)
    adapter = ResponderAdapter([POD_UNIT, NODE_UNIT], document["command"], document["lifetime"], runner)
    return engine_converge(adapter, lambda have: difference(have, want), check)


def probe(document: Mapping[str, Any], runner: Runner) -> List[Dict[str, Any]]:
    """Document: ``{source, netns, port, targets, command, count, timeout, wait}``. Results in the order of targets.

    Probes that start in a pod come before those of the node.
    """
    targets = parse_targets(document)
    netns = netns_path(document["netns"] or "")
    inside = [target for target in targets if target.kind != NODE_POD]
    outside = [target for target in targets if target.kind == NODE_POD]
    command = [*document["command"], "run"]
    answers: Dict[Target, Dict[str, Any]] = {}
    for prefix, part in ((["nsenter", f"--net={netns}"], inside), ([], outside)):
        if part:
            answers.update(zip(part, _run([*prefix, *command], part, document, runner)))
    return [result_of(document["source"], target, answers[target]) for target in targets]


def _run(
    command: Sequence[str], targets: Sequence[Target], document: Mapping[str, Any], runner: Runner
) -> List[Dict[str, Any]]:
    request = {
        "targets": [{"name": target.name, "address": target.address, "port": target.port} for target in targets],
        **{key: document[key] for key in ("count", "timeout", "wait")},
    }
    status, output, error = runner(command, json.dumps(request))
    if status != 0:
        # 127 of nsenter: the namespace is there, the program is not.
        advice = "; role fairlead.cluster.node brings the program" if status == 127 else ""
        raise PrerequisiteError(f"{' '.join(command)}: {error.strip() or f'status {status}'}{advice}")
    try:
        results = json.loads(output)["results"]
    except (ValueError, KeyError, TypeError) as problem:
        raise ReadError(f"{' '.join(command)}: its answer is not a prober's: {output[:200]!r}") from problem
    return list(results)
