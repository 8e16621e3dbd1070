# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What modules that make virtual services share: one run at a time, which is remembered, the kernel modules they need,
and what is wanted of the kernel."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Optional, Protocol, Sequence, Tuple, TypeVar

from .._engine import Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, PrerequisiteError, SpecError
from .._model.ipvs import DummyDevice
from .._model.ipvs_service import DEVICE, Declared, is_loopback, parse_services, service_addresses
from .._model.item import Item, State, state_of
from .._model.kernel import KernelModule
from .._netlink.dummy import address_of_device, elsewhere
from .._plan.ipvs import DELETED, Wanted
from .._plan.operation import difference
from .._system.kernel_modules import ModuleAdapter, is_there, require_loadable
from .._system.lock import exclusive
from .._system.runner import Runner
from . import store

_MODULE, _DUMMY = "ip_vs", "dummy"


class Run(Protocol):
    """One run of a module, made with what the node remembers at that time."""

    def refuse_others(self) -> None:
        """Raises SpecError where a service is declared that the other module has."""

    def converge(self) -> Outcome:
        """Bring the node to what is declared."""

    def kept(self) -> Optional[Dict[str, Any]]:
        """The document to remember, None for nothing."""


_Run = TypeVar("_Run", bound=Run)


def remembered_run(kind: str, check: bool, start: Callable[[], _Run]) -> Tuple[_Run, Outcome]:
    """A run of parameters from its start to what is remembered of it, with no other of this kind beside it."""
    with exclusive(kind, check):
        run = start()
        run.refuse_others()
        outcome = run.converge()
        return run, together(outcome, store.remember(kind, run.kept(), check))


def has_ipvs() -> bool:
    return is_there(_MODULE)


def made_by_cluster_service() -> FrozenSet[str]:
    """Names of the virtual services that module cluster_service made on this node, or was about to."""
    # Its own reader of documents needs all that reads manifests, which takes half as long to import as everything here.
    made = (document.get("made") for document in store.earlier("cluster_service"))
    return frozenset(str(name) for names in made if isinstance(names, list) for name in names)


def made_by_ipvs_service() -> FrozenSet[str]:
    """The same of module ipvs_service."""
    found: List[str] = []
    for document in store.earlier("ipvs_service"):
        with contextlib.suppress(FairleadError):
            found += (each.service for each in parse_services(document).services)
    return frozenset(found)


def devices_of_ipvs_service() -> List[str]:
    """Dummy devices of module ipvs_service on this node: addresses on them are those of services."""
    return [DEVICE, *(str(document.get("device", DEVICE)) for document in store.earlier("ipvs_service"))]


def load_modules(declared: Declared, check: bool, runner: Runner) -> Outcome:
    """Kernel modules that are missing, loaded. Raises PrerequisiteError for one that cannot be, SpecError where that is
    a service's scheduler."""
    names = [_MODULE, *sorted({f"ip_vs_{each.scheduler}" for each in declared.services})]
    names += sorted({f"ip_vs_pe_{each.engine}" for each in declared.services if each.engine})
    names += [_DUMMY] if declared.device and declared.services else []
    _require(names, declared)
    want = state_of(map(KernelModule, names))
    return engine_converge(ModuleAdapter(names, runner), lambda have: difference(have, {**have, **want}), check)


def wanted_services(
    declared: Declared,
    state: str,
    earlier: FrozenSet[str],
    devices: Sequence[str],
    own: FrozenSet[str] = frozenset(),
) -> Wanted:
    """``earlier`` are names of services that earlier runs made, ``devices`` the dummy devices of theirs and ours.
    Addresses of ``own`` are nodes', which other devices have, or will have when the node is up."""
    items: State = {("virtual_service", each.service): each for each in declared.services}
    items.update((("real_server", each.service, each.address), each) for each in declared.servers)
    if state != DELETED:
        items.update(state_of(_on_the_device(declared, devices, own)))
        if declared.timeouts is not None:
            items[declared.timeouts.key] = declared.timeouts
    return Wanted(items, state, declared.scope, earlier, declared.device, declared.drain > 0)


def _on_the_device(declared: Declared, devices: Iterable[str], own: FrozenSet[str]) -> List[Item]:
    """The dummy device with those addresses that no other interface has."""
    device = declared.device
    addresses = service_addresses(declared.services) if device else []
    if not addresses:
        return []
    others = elsewhere(devices) | own
    hosts = [(each, each.partition("/")[0]) for each in addresses]
    ours = [address_of_device(device, each) for each, host in hosts if host not in others and not is_loopback(host)]
    return [DummyDevice(device), *ours] if ours else []


def _require(names: Sequence[str], declared: Declared) -> None:
    """Refuse what the kernel lacks, naming the service that asks for it."""
    for name in names:
        try:
            require_loadable([name])
        except PrerequisiteError as error:
            asking = [n for n, each in enumerate(declared.services) if f"ip_vs_{each.scheduler}" == name]
            if not asking:
                raise
            raise SpecError(f"services[{asking[0]}].scheduler", str(error)) from error
