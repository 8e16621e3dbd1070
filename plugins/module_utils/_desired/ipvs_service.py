# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The virtual services of this node: converged from a document with the parameters of module ipvs_service."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set

from .._engine import Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, PrerequisiteError, SpecError
from .._model.ipvs import PLAIN_TUNNEL, DummyDevice, RealServer, VirtualService
from .._model.ipvs_service import Declared, described, is_loopback, parse_services, service_addresses
from .._model.item import State, state_of
from .._model.kernel import KernelModule
from .._netlink.dummy import address_of_device, elsewhere
from .._netlink.ipvs_adapter import IpvsAdapter
from .._plan.ipvs import DELETED, MERGED, OVERRIDDEN, Wanted, plan_services
from .._plan.operation import difference
from .._system.kernel_modules import ModuleAdapter, is_there, require_loadable
from .._system.lock import exclusive
from .._system.runner import Runner
from . import store

KIND = "ipvs_service"
_MODULE, _DUMMY = "ip_vs", "dummy"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the services to the document; its ``state`` is "overridden" when it has none.

    What earlier documents made, or killed runs were about to make, is known from them.
    """
    state = str(document.get("state") or OVERRIDDEN)
    content = {key: value for key, value in document.items() if key != "state"}
    with contextlib.nullcontext() if check else exclusive(KIND):
        return Run(content, state, check, runner).converge()


class Run:
    """One run with what it is about: the declaration, and what the node remembers of earlier ones."""

    def __init__(self, content: Mapping[str, Any], state: str, check: bool, runner: Runner) -> None:
        self.declared = parse_services(content)
        self.state = state
        self.check = check
        self.runner = runner
        # In canonical form, so that the same declaration written otherwise is the same.
        self.content = described(self.declared)
        self.saved = _saved()
        documents = [*([self.saved] if self.saved else []), *store.unfinished(KIND)]
        # What is as declared needs not be read again: at boot that is all of it.
        self.earlier = [_parsed(each) for each in documents if each != self.content]

    def converge(self) -> Outcome:
        if self.state == DELETED and not is_there(_MODULE):
            return Outcome({}, {}, [])
        modules = self._modules()
        if self.check and not is_there(_MODULE):
            # Nothing can be there that the kernel does not know of.
            operations = plan_services({}, self._wanted())
            return together(modules, Outcome({}, state_of(each.item for each in operations), operations))
        adapter = IpvsAdapter(self._devices(), self._thorough(), self.declared.drain)
        wanted = self._wanted()
        changed = engine_converge(adapter, lambda have: plan_services(have, wanted), self.check, self._around)
        return together(modules, changed)

    def kept(self) -> Optional[Dict[str, Any]]:
        """The document to remember: what is declared by all runs up to this one. None for nothing."""
        if self.state == OVERRIDDEN or (not self.saved and self.state != DELETED):
            return self.content
        saved = _parsed(self.saved or {})
        names = {each.service for each in self.declared.services}
        if self.state == DELETED:
            return _described_without(saved, names) if names else None
        return described(_joined(saved, self.declared, keep_servers=self.state == MERGED))

    def _around(self) -> contextlib.AbstractContextManager[None]:
        known = self.saved is not None and self.saved == self.content
        return contextlib.nullcontext() if known or self.state == DELETED else store.noted(KIND, self.content)

    def _modules(self) -> Outcome:
        """Kernel modules that are missing, loaded."""
        if self.state == DELETED:
            return Outcome({}, {}, [])
        names = [_MODULE, *sorted({f"ip_vs_{each.scheduler}" for each in self.declared.services})]
        names += [_DUMMY] if self.declared.device and self.declared.services else []
        _require(names, self.declared)
        adapter = ModuleAdapter(names, self.runner)
        return engine_converge(
            adapter, lambda have: difference(have, {**have, **state_of(map(KernelModule, names))}), self.check
        )

    def _wanted(self) -> Wanted:
        declared = self.declared
        items: State = {("virtual_service", each.service): each for each in declared.services}
        items.update((("real_server", each.service, each.address), each) for each in declared.servers)
        if self.state != DELETED:
            items.update(state_of(self._on_the_device()))
            if declared.timeouts is not None:
                items[declared.timeouts.key] = declared.timeouts
        return Wanted(items, self.state, declared.scope, self._earlier_names(), declared.device, declared.drain > 0)

    def _on_the_device(self) -> Iterable[Any]:
        """The dummy device with those addresses that no other interface has."""
        device = self.declared.device
        addresses = service_addresses(self.declared.services) if device else []
        if not addresses:
            return []
        others = elsewhere(self._devices())
        hosts = [(each, each.partition("/")[0]) for each in addresses]
        own = [address_of_device(device, each) for each, host in hosts if host not in others and not is_loopback(host)]
        return [DummyDevice(device), *own] if own else []

    def _devices(self) -> List[str]:
        return [self.declared.device, *(each.device for each in self.earlier)]

    def _thorough(self) -> Set[str]:
        """Services with servers of which more is or was declared than the kernel's file tells."""
        servers = (each for declared in (self.declared, *self.earlier) for each in declared.servers)
        return {each.service for each in servers if each.upper or each.tunnel != PLAIN_TUNNEL}

    def _earlier_names(self) -> FrozenSet[str]:
        return frozenset(each.service for declared in self.earlier for each in declared.services)


def gather() -> Dict[str, Any]:
    """All services that are there, as parameters."""
    state = IpvsAdapter([]).read()
    services = tuple(item for item in state.values() if isinstance(item, VirtualService))
    servers = tuple(item for item in state.values() if isinstance(item, RealServer))
    return described(Declared(services, servers))


def _saved() -> Optional[Dict[str, Any]]:
    with contextlib.suppress(FairleadError):
        return store.load(KIND)
    return None


def _parsed(document: Mapping[str, Any]) -> Declared:
    """Nothing for a document that is not understood."""
    with contextlib.suppress(FairleadError):
        return parse_services(document)
    return Declared((), ())


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


def _described_without(saved: Declared, names: Set[str]) -> Optional[Dict[str, Any]]:
    services = tuple(each for each in saved.services if each.service not in names)
    servers = tuple(each for each in saved.servers if each.service not in names)
    left = Declared(services, servers, saved.scope, saved.device, saved.timeouts, saved.drain)
    return described(left) if services else None


def _joined(saved: Declared, declared: Declared, keep_servers: bool) -> Declared:
    """Earlier services stay unless they are declared anew; their servers too where they are merged."""
    services = {each.service: each for each in (*saved.services, *declared.services)}
    names = {each.service for each in declared.services}
    kept = [each for each in saved.servers if keep_servers or each.service not in names]
    servers = {each.key: each for each in (*kept, *declared.servers)}
    return Declared(
        tuple(services.values()),
        tuple(servers.values()),
        declared.scope if declared.scope.areas else saved.scope,
        declared.device,
        declared.timeouts or saved.timeouts,
        declared.drain,
    )
