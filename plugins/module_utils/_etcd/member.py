# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The etcd member on this node: started once it is safe, restarted one at a time, known to be healthy.

The environment file says ``existing`` for the state of the cluster. Only a first start, after it was found safe, adds
a second file under /run that says ``new``; it is gone as soon as the member is healthy, and after a reboot. So a member
that lost its data can never found a second cluster by itself. That a member has existed is remembered in a file, which
also tells data of ours from that of another etcd.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from typing import Any, List, Mapping, Optional, Tuple

from .._engine import Combined, Outcome
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, PrerequisiteError
from .._model.etcd import (
    CURRENT,
    ENVIRONMENT_FILE,
    FOREIGN,
    OUTDATED,
    UNIT,
    Access,
    EtcdService,
    MemberSpec,
    MemberStatus,
    parse_access,
    parse_member_spec,
)
from .._model.files import File
from .._model.item import Item, State, state_of
from .._model.parse import Section
from .._plan.operation import Operation, difference
from .._system.files import FileAdapter, read_file
from .._system.runner import Runner
from .cluster import access_to, list_members, wait_healthy, wait_spared
from .gateway import RefusedError, UnreachableError
from .service import EtcdServiceAdapter

MEMORY = "/var/lib/fairlead/etcd_member.json"
BOOTSTRAP_FILE = "/run/fairlead/etcd-bootstrap.env"
_STARTING, _MEMBER = "starting", "member"
_FILE, _SERVICE = File.kind, EtcdService.kind


class UnsafeStartError(FairleadError):
    """Starting etcd now could lose data or found a second cluster."""


@dataclasses.dataclass(frozen=True)
class Started:
    """``stale``: whether the running process has an older configuration than the one in the file."""

    outcome: Outcome
    stale: bool


def start(document: Mapping[str, Any], check: bool, runner: Runner) -> Started:
    """The service is enabled and running, or was just told to start; nobody waits for the cluster.

    Raises UnsafeStartError when a first start is not safe. A running member is left running.
    """
    spec, access = _parse(document)
    adapter = _adapter(spec.unit, spec.environment_file, runner)
    service = _service(adapter.read(), spec.unit)
    if service.configuration == FOREIGN:
        raise UnsafeStartError(
            f"{spec.unit} runs an etcd that is not ours. Move what is needed of its data away, then: "
            f"systemctl disable --now {spec.unit}"
        )
    if not service.running:
        _refuse_unsafe(spec, access)

    def plan(have: State) -> List[Operation]:
        service = _service(have, spec.unit)
        up = dataclasses.replace(service, unit_file=CURRENT, enabled=True, running=True)
        # What was written down for the first start stays until the member is healthy.
        files = [item for item in have.values() if isinstance(item, File)] if service.running else _first_start(spec)
        return difference(have, state_of([*files, up]), {_FILE: 0, _SERVICE: 1})

    outcome = engine_converge(adapter, plan, check)
    return Started(outcome, _service(outcome.after, spec.unit).configuration == OUTDATED)


def restart(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """The member runs with the present configuration, and the cluster is healthy again when this returns.

    Raises UnhealthyError, with nothing done, while the cluster could not spare the member.
    """
    spec, access = _parse(document)
    adapter = EtcdServiceAdapter(spec.unit, spec.environment_file, runner)

    def plan(have: State) -> List[Operation]:
        return difference(have, state_of([dataclasses.replace(_service(have, spec.unit), configuration=CURRENT)]))

    if check or not plan(adapter.read()):
        return engine_converge(adapter, plan, check)
    needed = {member.name for member in wait_spared(spec, access) if member.healthy}
    outcome = engine_converge(adapter, plan)
    wait_healthy(spec, access, needed | {spec.name})
    return outcome


def healthy(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Outcome, List[MemberStatus]]:
    """Waits until the member is healthy and the members are the declared ones, and remembers that it exists.

    In check mode a member that does not run is not waited for.
    """
    spec, access = _parse(document)
    files = FileAdapter([MEMORY, BOOTSTRAP_FILE])
    want = state_of([_memory(spec, _MEMBER)])
    running = _service(EtcdServiceAdapter(spec.unit, spec.environment_file, runner).read(), spec.unit).running
    members = wait_healthy(spec, access, {spec.name}) if running or not check else []
    return engine_converge(files, lambda have: difference(have, want), check), members


def remove(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Outcome, Optional[str]]:
    """The service is stopped and disabled, and nothing is remembered. An etcd that is not ours goes on running.

    Also gives the directory in which there is data of ours, None for none.
    """
    section = Section(document)
    unit = section.text("unit", UNIT)
    adapter = _adapter(unit, section.text("environment_file", ENVIRONMENT_FILE), runner)
    data_dir = _remembered().get("data_dir")

    def plan(have: State) -> List[Operation]:
        service = _service(have, unit)
        if service.configuration != FOREIGN:
            service = dataclasses.replace(service, enabled=False, running=False, configuration=CURRENT)
        return difference(have, state_of([service]))

    return engine_converge(adapter, plan, check), data_dir


def _parse(document: Mapping[str, Any]) -> Tuple[MemberSpec, Access]:
    spec = parse_member_spec(document)
    return spec, parse_access({**document, "endpoints": [spec.own.client_url]})


def _adapter(unit: str, environment_file: str, runner: Runner) -> Combined:
    service = EtcdServiceAdapter(unit, environment_file, runner)
    return Combined({_FILE: FileAdapter([MEMORY, BOOTSTRAP_FILE]), _SERVICE: service})


def _service(state: State, unit: str) -> EtcdService:
    service = state[(_SERVICE, unit)]
    assert isinstance(service, EtcdService)
    return service


def _memory(spec: MemberSpec, stage: str) -> File:
    content = {"name": spec.name, "token": spec.token, "data_dir": spec.data_dir, "stage": stage}
    return File(MEMORY, json.dumps(content, indent=1, sort_keys=True) + "\n", "0600")


def _remembered() -> Mapping[str, Any]:
    file = read_file(MEMORY)
    try:
        content = json.loads(file.content) if file is not None else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def _first_start(spec: MemberSpec) -> List[Item]:
    """The files for a start of a member that is not running; whether it is the first one is seen by its data."""
    if _has_data(spec):
        return [_memory(spec, str(_remembered().get("stage", _STARTING)))]
    return [_memory(spec, _STARTING), File(BOOTSTRAP_FILE, "ETCD_INITIAL_CLUSTER_STATE=new\n")]


def _has_data(spec: MemberSpec) -> bool:
    """Whether etcd would find a member's log: without one it starts as if there were nothing."""
    return bool(glob.glob(os.path.join(glob.escape(spec.data_dir), "member", "wal", "*.wal")))


def _refuse_unsafe(spec: MemberSpec, access: Access) -> None:
    memory = _remembered()
    if _has_data(spec):
        if memory.get("data_dir") != spec.data_dir:
            raise UnsafeStartError(
                f"{spec.data_dir} holds data of an etcd that was not started from here, and it would be taken over. "
                f"Move it away, or set etcd_data_dir to another directory; "
                f"when it is this member's own, restore {MEMORY}"
            )
        return
    if memory.get("stage") == _MEMBER:
        raise UnsafeStartError(
            f"member {spec.name} has existed with data in {memory.get('data_dir')}, "
            f"but there is none in {spec.data_dir}. Mount, move or restore it; to give the data up, "
            f"remove the member from the cluster where others still run, delete {MEMORY} and run again"
        )
    _refuse_second_cluster(spec, access)


def _refuse_second_cluster(spec: MemberSpec, access: Access) -> None:
    """Before a first start: the others must not know this member as one that has been running."""
    if not spec.others:
        return
    listed = _listed_by_others(spec, access)
    if listed is None:
        return
    own = next((member for member in listed if spec.own.peer_url in member.peer_urls), None)
    names = ", ".join(sorted(member.name or member.id for member in listed))
    if own is None:
        raise UnsafeStartError(
            f"the other members run a cluster without {spec.name} ({spec.own.peer_url}); its members are {names}. "
            f"Starting here would found a second cluster: add it as a member first"
        )
    if own.client_urls:
        raise UnsafeStartError(
            f"the other members ({names}) know {spec.name} as a member that has been running (id {own.id}), but there "
            f"is no data in {spec.data_dir}. Restore it, or remove the member from the cluster and add it again"
        )


def _listed_by_others(spec: MemberSpec, access: Access) -> Optional[List[MemberStatus]]:
    """None when none of them answers, as before the cluster's own first start."""
    try:
        return list_members(access_to(access, spec.others))
    except (UnreachableError, RefusedError, PrerequisiteError):
        return None
