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
import os
from typing import Any, List, Mapping, Optional, Tuple

from .._engine import Combined, Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, PrerequisiteError
from .._model.etcd import (
    CURRENT,
    DATA_DIR,
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
from .._system.files import FileAdapter
from .._system.runner import Runner
from . import memory
from .cluster import access_to, list_members, wait_healthy, wait_spared
from .data import DataAdapter
from .gateway import RefusedError, UnreachableError
from .service import EtcdServiceAdapter, unit_path

BOOTSTRAP_FILE = "/run/fairlead/etcd-bootstrap.env"
_FILE, _SERVICE = File.kind, EtcdService.kind


class UnsafeStartError(FairleadError):
    """Starting etcd now could lose data or found a second cluster."""


class DataInUseError(FairleadError):
    """Data that is to be removed is another process's at this moment."""


@dataclasses.dataclass(frozen=True)
class Started:
    """``stale``: whether the running process has an older configuration than the one in the file."""

    outcome: Outcome
    stale: bool


@dataclasses.dataclass(frozen=True)
class Removed:
    """``data_dir``: where there was data of ours, None for none. ``left``: unit and data there that are not ours."""

    outcome: Outcome
    data_dir: Optional[str]
    left: List[str]


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
    # In check mode the role has only said that it would write one of ours.
    if service.unit_file == FOREIGN and not check:
        raise UnsafeStartError(
            f"{spec.unit} is not ours, so it is not started; role etcd writes one of ours to {unit_path(spec.unit)}"
        )
    if not service.running:
        _refuse_unsafe(spec, access, check)

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
    want = state_of([memory.memory(spec, memory.MEMBER)])
    running = _service(EtcdServiceAdapter(spec.unit, spec.environment_file, runner).read(), spec.unit).running
    members = wait_healthy(spec, access, {spec.name}) if running or not check else []
    return engine_converge(_files(), lambda have: difference(have, want), check), members


def remove(document: Mapping[str, Any], check: bool, runner: Runner) -> Removed:
    """The service is stopped and disabled, its data removed and, when that is gone, nothing remembered.

    An etcd that is not ours goes on running, and its data stays. Raises DataInUseError, with nothing done.
    """
    section = Section(document)
    unit, path = section.text("unit", UNIT), memory.own_data()
    services = EtcdServiceAdapter(unit, section.text("environment_file", ENVIRONMENT_FILE), runner)
    found = _service(services.read(), unit)
    foreign = memory.foreign_data(section.text("data_dir", DATA_DIR))
    _refuse_in_use(path, 0 if found.configuration == FOREIGN else services.main_pid())
    outcomes = [
        engine_converge(services, lambda have: _stopping(_service(have, unit)), check),
        engine_converge(DataAdapter(path), lambda have: difference(have, {}), check),
        # Last: whoever is interrupted before this finds the data as ours the next time.
        engine_converge(_files(), lambda have: difference(have, {}), check),
    ]
    left = [unit] if found.configuration == FOREIGN else []
    data_dir = os.path.dirname(path) if path and outcomes[1].before else None
    return Removed(together(*outcomes), data_dir, left + ([foreign] if foreign else []))


def _stopping(service: EtcdService) -> List[Operation]:
    enabled = service.enabled and service.unit_file == FOREIGN
    if service.configuration == FOREIGN:
        down = service
    else:
        down = dataclasses.replace(service, enabled=enabled, running=False, configuration=CURRENT)
    return difference(state_of([service]), state_of([down]))


def _refuse_in_use(path: Optional[str], own: int) -> None:
    users = [pid for pid in memory.holders(path) if pid != own] if path else []
    if users:
        raise DataInUseError(
            f"{path} was made by this member and is now in use by process {', '.join(map(str, users))}, which is not "
            f"ours. Nothing was removed; stop it first, or move the data away"
        )


def _parse(document: Mapping[str, Any]) -> Tuple[MemberSpec, Access]:
    spec = parse_member_spec(document)
    return spec, parse_access({**document, "endpoints": [spec.own.client_url]})


def _adapter(unit: str, environment_file: str, runner: Runner) -> Combined:
    service = EtcdServiceAdapter(unit, environment_file, runner)
    return Combined({_FILE: _files(), _SERVICE: service})


def _files() -> FileAdapter:
    return FileAdapter([memory.MEMORY, BOOTSTRAP_FILE])


def _service(state: State, unit: str) -> EtcdService:
    service = state[(_SERVICE, unit)]
    assert isinstance(service, EtcdService)
    return service


def _first_start(spec: MemberSpec) -> List[Item]:
    """The files for a start of a member that is not running; whether it is the first one is seen by its data."""
    if memory.has_log(spec.data_dir):
        return [memory.memory(spec, str(memory.remembered().get("stage", memory.STARTING)))]
    return [memory.memory(spec, memory.STARTING), File(BOOTSTRAP_FILE, "ETCD_INITIAL_CLUSTER_STATE=new\n")]


def _refuse_unsafe(spec: MemberSpec, access: Access, check: bool) -> None:
    foreign = memory.foreign_data(spec.data_dir)
    if foreign:
        raise UnsafeStartError(describe_foreign_data(foreign))
    if memory.has_log(spec.data_dir):
        return
    known = memory.remembered()
    if known.get("stage") == memory.MEMBER:
        raise UnsafeStartError(
            f"member {spec.name} has existed with data in {known.get('data_dir')}, "
            f"but there is none in {spec.data_dir}. Mount, move or restore it; to give the data up, "
            f"remove the member from the cluster where others still run, delete {memory.MEMORY} and run again"
        )
    _refuse_second_cluster(spec, access, check)


def describe_foreign_data(path: str) -> str:
    return (
        f"{path} holds data of an etcd that was not started from here, and it would be taken over. Move it away, or "
        f"set etcd_data_dir to another directory; when it is this member's own, restore {memory.MEMORY}"
    )


def _refuse_second_cluster(spec: MemberSpec, access: Access, check: bool) -> None:
    """Before a first start: the others must not know this member as one that has been running."""
    if not spec.others:
        return
    listed = _listed_by_others(spec, access, check)
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


def _listed_by_others(spec: MemberSpec, access: Access, check: bool) -> Optional[List[MemberStatus]]:
    """None when nobody is there, as before the cluster's own first start.

    Somebody who is there and cannot be understood may be the cluster: that is no reason to found another one.
    """
    try:
        return list_members(access_to(access, spec.others))
    except PrerequisiteError:
        # The TLS files. On a fresh node check mode looks before they are made.
        if not check:
            raise
        return None
    except UnreachableError as error:
        if not error.strangers:
            return None
        reason = "; ".join(error.strangers)
    except RefusedError as error:
        reason = str(error)
    raise UnsafeStartError(
        f"somebody answers where the other members are, and cannot be asked whether {spec.name} is one of them: "
        f"{reason}. Starting here could found a second cluster. Compare the certificates there with ca_file "
        f"{access.ca_file}; role pki makes them, on one pki_authority_host for all"
    )
