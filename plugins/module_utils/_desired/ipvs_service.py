# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The virtual services of this node: converged from a document with the parameters of module ipvs_service."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Set, Tuple, Union

from .._engine import Outcome, together
from .._engine import converge as engine_converge
from .._model.errors import FairleadError, PrerequisiteError, SpecError
from .._model.ipvs import PLAIN_TUNNEL, RealServer, Timeouts, VirtualService
from .._model.ipvs_service import DEVICE, Declared, described, parse_services
from .._model.item import State
from .._netlink import dummy
from .._netlink.ipvs_adapter import IpvsAdapter
from .._netlink.ipvs_devices import DeviceAdapter
from .._plan.ipvs import DELETED, MERGED, OVERRIDDEN, Wanted, plan_services
from .._system.lock import exclusive
from .._system.runner import Runner
from . import store
from .virtual_services import has_ipvs, load_modules, made_by_cluster_service, remembered_run, wanted_services

KIND = "ipvs_service"


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the services to the document; its ``state`` is "overridden" when it has none.

    What earlier documents made, or killed runs were about to make, is known from them.
    """
    state = str(document.get("state") or OVERRIDDEN)
    content = {key: value for key, value in document.items() if key != "state"}
    with exclusive(KIND, check):
        return Run(content, state, check, runner).converge()


def change(content: Mapping[str, Any], state: str, check: bool, runner: Runner) -> Outcome:
    """Bring the services to parameters, and remember them. ``state`` is one that changes something. Raises SpecError
    for a service that module cluster_service has."""
    return remembered_run(KIND, check, lambda: Run(content, state, check, runner))[1]


class Run:
    """One run with what it is about: the declaration, and what the node remembers of earlier ones."""

    def __init__(self, content: Mapping[str, Any], state: str, check: bool, runner: Runner) -> None:
        self.declared = parse_services(content)
        self.state = state
        self.check = check
        self.runner = runner
        self.saved = store.recall(KIND)
        # In canonical form, so that the same declaration written otherwise is the same. What is saved is in it.
        self.content = self.saved if self.saved == content else described(self.declared)
        documents = [*([self.saved] if self.saved else []), *store.unfinished(KIND)]
        # What is as declared needs not be read again: at boot that is all of it.
        self.earlier = [_parsed(each) for each in documents if each != self.content or state == DELETED]
        self._killed = [_parsed(each) for each in documents[bool(self.saved) :]]
        # The name of the first is nobody else's. Devices of the others were not there when they were first named.
        self._ours = {DEVICE, *(str(each.get("device", DEVICE)) for each in documents)}
        self._others = made_by_cluster_service()
        self._found: State = {}

    def converge(self) -> Outcome:
        outcome = self._converge()
        self._found = outcome.after
        return outcome

    def _converge(self) -> Outcome:
        self._refuse_device()
        modules, wanted = self._modules(), self._wanted()
        changed = engine_converge(self._adapter(), lambda have: plan_services(have, wanted), self.check, self._around)
        return together(modules, changed)

    def _adapter(self) -> Union[IpvsAdapter, DeviceAdapter]:
        if (self.check or self.state == DELETED) and not has_ipvs():
            # Devices can be there with no services.
            return DeviceAdapter(self._devices(), self._no_more_ours())
        return IpvsAdapter(self._devices(), self._thorough(), self.declared.drain, self._no_more_ours())

    def refuse_others(self) -> None:
        for number, each in enumerate(self.declared.services):
            if each.service in self._others:
                problem = f"service {each.service} is one of module cluster_service on this node, so not ours to change"
                raise SpecError(f"services[{number}]", problem)

    def _refuse_device(self) -> None:
        """What is on a device of ours and not declared goes, and in the end the device."""
        name = self.declared.device
        if self.state != DELETED and name and name not in self._ours and dummy.is_there(name):
            text = f"interface {name} is there, and this module did not make it, so it and its addresses are not ours"
            raise PrerequisiteError(f"device: {text}; name another one, or remove it")

    def kept(self) -> Optional[Dict[str, Any]]:
        """The document to remember: what is declared by all runs up to this one. None for nothing."""
        if self.state == OVERRIDDEN:
            return self.content
        names = {each.service for each in self.declared.services}
        if self.state == DELETED and not names:
            return None
        earlier = _parsed(self.saved) if self.saved else self._nothing()
        for killed in self._killed:
            earlier = _with_made(earlier, killed, self._found)
        if self.state == DELETED:
            return _described_without(earlier, names)
        return described(_joined(earlier, self.declared, keep_servers=self.state == MERGED))

    def _nothing(self) -> Declared:
        """What is remembered with the first services. What a killed run made stays as that had it."""
        first = self._killed[-1] if self.state == DELETED and self._killed else self.declared
        return dataclasses.replace(first, services=(), servers=())

    def _around(self) -> contextlib.AbstractContextManager[None]:
        known = self.saved is not None and self.saved == self.content
        return contextlib.nullcontext() if known or self.state == DELETED else store.noted(KIND, self.content)

    def _modules(self) -> Outcome:
        if self.state == DELETED:
            return Outcome({}, {}, [])
        return load_modules(self.declared, self.check, self.runner)

    def _wanted(self) -> Wanted:
        wanted = wanted_services(self.declared, self.state, self._earlier_names(), self._devices())
        return dataclasses.replace(wanted, others=self._others, given_up=self._given_up())

    def _given_up(self) -> Tuple[Timeouts, ...]:
        """Time-outs that will not be remembered any more unless they are declared."""
        names = {each.service for each in self.declared.services}
        left = self._earlier_names() - names if self.state == DELETED and names else frozenset()
        if left or self.state not in (OVERRIDDEN, DELETED):
            return ()
        return tuple(each.timeouts for each in self.earlier if each.timeouts)

    def _no_more_ours(self) -> List[str]:
        """Devices that need not be ours any more."""
        return [each for each in self._devices() if self.state == DELETED or each != self.declared.device]

    def _devices(self) -> List[str]:
        declared = [self.declared.device] if self.state != DELETED or self.declared.device in self._ours else []
        return [*declared, *(each.device for each in self.earlier)]

    def _thorough(self) -> Set[str]:
        """Services with servers of which more is or was declared than the kernel's file tells."""
        servers = (each for declared in (self.declared, *self.earlier) for each in declared.servers)
        return {each.service for each in servers if each.upper or each.tunnel != PLAIN_TUNNEL}

    def _earlier_names(self) -> FrozenSet[str]:
        return frozenset(each.service for declared in self.earlier for each in declared.services)


def gather() -> Dict[str, Any]:
    """All services that are there, as parameters. None are where the kernel's IPVS is not loaded."""
    state = IpvsAdapter([]).read() if has_ipvs() else {}
    services = tuple(item for item in state.values() if isinstance(item, VirtualService))
    servers = tuple(item for item in state.values() if isinstance(item, RealServer))
    return described(Declared(services, servers))


def _parsed(document: Mapping[str, Any]) -> Declared:
    """Nothing for a document that is not understood."""
    with contextlib.suppress(FairleadError):
        return parse_services(document)
    return Declared((), ())


def _described_without(saved: Declared, names: Set[str]) -> Optional[Dict[str, Any]]:
    services = tuple(each for each in saved.services if each.service not in names)
    servers = tuple(each for each in saved.servers if each.service not in names)
    left = Declared(services, servers, saved.scope, saved.device, saved.timeouts, saved.drain)
    return described(left) if services else None


def _with_made(saved: Declared, killed: Declared, there: State) -> Declared:
    """With services that a killed run made and that are there still: they are ours, so they must not be forgotten."""
    known = {each.service for each in saved.services}
    made = [each for each in killed.services if each.service not in known and each.key in there]
    names = {each.service for each in made}
    servers = [each for each in killed.servers if each.service in names]
    return dataclasses.replace(saved, services=(*saved.services, *made), servers=(*saved.servers, *servers))


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
        _joined_timeouts(saved.timeouts, declared.timeouts),
        declared.drain,
    )


def _joined_timeouts(saved: Optional[Timeouts], declared: Optional[Timeouts]) -> Optional[Timeouts]:
    if saved is None or declared is None:
        return declared or saved
    both = zip(dataclasses.astuple(declared), dataclasses.astuple(saved))
    return Timeouts(*(new or old for new, old in both))
