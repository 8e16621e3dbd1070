# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What an etcd cluster says of itself: its members, and how each of them is."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from typing import Any, Collection, Dict, List, Optional, Sequence, Tuple

from .._model.errors import FairleadError
from .._model.etcd import Access, DeclaredMember, MemberSpec, MemberStatus, quorum
from .gateway import Gateway, RefusedError, UnreachableError

# Seconds between two looks at a cluster that is waited for.
PAUSE = 1.0
INVALID_ARGUMENT = 3


class UnhealthyError(FairleadError):
    """The cluster did not become what it has to be in time, or must not be touched as it is."""


def gather(access: Access) -> List[MemberStatus]:
    """All members in the order of their names, each asked for itself. Raises UnreachableError when nobody answers."""
    listed = list_members(access)
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        asked = list(pool.map(lambda member: _asked(access, member), listed))
    leaders = {leader for _member, leader in asked if leader}
    statuses = [dataclasses.replace(member, leader=member.id in leaders) for member, _leader in asked]
    return sorted(statuses, key=lambda member: (member.name, member.id))


def list_members(access: Access) -> List[MemberStatus]:
    """Members as the first endpoint that answers lists them, even when it has no leader."""
    gateway = Gateway(access)
    try:
        answer = _local_list(gateway)
    finally:
        gateway.close()
    return [_listed(entry) for entry in answer.get("members", [])]


def _local_list(gateway: Gateway) -> Dict[str, Any]:
    try:
        return gateway.post("cluster/member/list", {"linearizable": False})
    except RefusedError as error:
        # Release 3.4 does not know the option; it always answers from what the member itself knows.
        if error.code != INVALID_ARGUMENT:
            raise
        return gateway.post("cluster/member/list", {})


def _listed(entry: Dict[str, Any]) -> MemberStatus:
    return MemberStatus(
        name=str(entry.get("name", "")),
        id=_hex(entry.get("ID", "0")),
        peer_urls=tuple(entry.get("peerURLs", [])),
        client_urls=tuple(entry.get("clientURLs", [])),
        learner=bool(entry.get("isLearner", False)),
    )


def _hex(number: Any) -> str:
    """Identifiers as etcdctl shows them."""
    return f"{int(number):x}"


def _asked(access: Access, member: MemberStatus) -> Tuple[MemberStatus, Optional[str]]:
    """The member with what it says of itself, and the identifier of its leader."""
    if not member.client_urls:
        return dataclasses.replace(member, problem="has not been started yet"), None
    gateway = Gateway(dataclasses.replace(access, endpoints=member.client_urls))
    try:
        status = gateway.post("maintenance/status", {})
        known = dataclasses.replace(
            member, version=str(status.get("version", "")), db_bytes=int(status.get("dbSize", 0))
        )
        leader = _hex(status.get("leader", "0"))
        if gateway.get("/health").get("health") not in ("true", True):
            return dataclasses.replace(known, problem="says that it is not healthy"), leader
        return dataclasses.replace(known, healthy=True), leader
    except (UnreachableError, RefusedError) as error:
        return dataclasses.replace(member, problem=str(error)), None
    finally:
        gateway.close()


def access_to(access: Access, members: Sequence[DeclaredMember]) -> Access:
    return dataclasses.replace(access, endpoints=tuple(member.client_url for member in members))


def wait_healthy(spec: MemberSpec, access: Access, names: Collection[str]) -> List[MemberStatus]:
    """Look until the named members are healthy and all members are the declared ones.

    Raises UnhealthyError with what is wrong after ``spec.wait`` seconds.
    """
    end = time.monotonic() + spec.wait
    while True:
        members, problems = _examine(spec, access, names)
        if not problems:
            return members
        if time.monotonic() >= end:
            raise UnhealthyError(f"etcd is not healthy after {spec.wait} s: {'; '.join(problems)}")
        time.sleep(PAUSE)


def _examine(spec: MemberSpec, access: Access, names: Collection[str]) -> Tuple[List[MemberStatus], List[str]]:
    try:
        # What the own member knows is what counts.
        members = gather(access_to(access, [spec.own]))
    except (UnreachableError, RefusedError) as error:
        return [], [f"{spec.name}: {error}"]
    problems = differences(spec, members)
    problems += [f"{member.name}: {member.problem}" for member in members if member.name in names and member.problem]
    return members, problems


def wait_spared(spec: MemberSpec, access: Access) -> List[MemberStatus]:
    """Look until the cluster can do without the own member for a moment. Raises UnhealthyError when it never can."""
    end = time.monotonic() + spec.wait
    while True:
        members = _known_to_anybody(spec, access)
        reason = refuse_to_stop(spec, members)
        if reason is None:
            return members
        if time.monotonic() >= end:
            raise UnhealthyError(f"{spec.name} is not restarted, because etcd would lose its majority: {reason}")
        time.sleep(PAUSE)


def _known_to_anybody(spec: MemberSpec, access: Access) -> List[MemberStatus]:
    try:
        return gather(access_to(access, [spec.own, *spec.others]))
    except (UnreachableError, RefusedError):
        return []


def differences(spec: MemberSpec, members: Sequence[MemberStatus]) -> List[str]:
    """Where the cluster's members are not the declared ones."""
    listed = {member.peer_urls: member for member in members}
    declared = {(member.peer_url,): member.name for member in spec.members}
    missing = [f"{name} ({urls[0]}) is declared but no member" for urls, name in declared.items() if urls not in listed]
    extra = [
        f"{member.name or member.id} ({','.join(urls)}) is a member but not declared"
        for urls, member in listed.items()
        if urls not in declared
    ]
    renamed = [
        f"the member at {urls[0]} is called {listed[urls].name}, not {name}"
        for urls, name in declared.items()
        if urls in listed and listed[urls].name not in ("", name)
    ]
    return missing + extra + renamed


def refuse_to_stop(spec: MemberSpec, members: Sequence[MemberStatus]) -> Optional[str]:
    """Why the own member must not be stopped now; None when it may be, also because it is of no use as it is.

    A cluster of one or two members cannot spare one at any time; there it is enough that all the others are healthy.
    """
    own = next((member for member in members if member.peer_urls == (spec.own.peer_url,)), None)
    if own is None or not own.healthy:
        return None
    others = sum(1 for member in members if member.healthy and not member.learner and member.id != own.id)
    voters = sum(1 for member in members if not member.learner)
    needed = min(quorum(voters), voters - 1)
    if others >= needed:
        return None
    unhealthy = ", ".join(f"{member.name or member.id} ({member.problem})" for member in members if not member.healthy)
    return f"only {others} of the {needed} other members needed are healthy; not: {unhealthy}"
