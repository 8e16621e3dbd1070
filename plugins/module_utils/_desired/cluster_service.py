# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The services of a cluster on this node: virtual services, and the rules beside them, stand or fall together."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .._engine import Adapter, Combined, Outcome, together
from .._engine import converge as engine_converge
from .._model.cluster_service import DEVICE, ClusterServices, addresses_of, parse_cluster_services
from .._model.errors import PrerequisiteError, SpecError
from .._model.files import File
from .._model.filter_items import FilterEntry, FilterObject, FilterRule
from .._model.health_check import HealthCheck
from .._model.item import State
from .._model.kubernetes.documents import Skipped
from .._model.masquerade import AUTO
from .._netlink.dummy import elsewhere
from .._netlink.ipvs_adapter import IpvsAdapter
from .._netlink.ipvs_devices import DeviceAdapter
from .._plan.health_check import plan_health_checks
from .._plan.ipvs import OVERRIDDEN, Wanted, plan_services
from .._plan.operation import DELETE, Operation, difference
from .._system import iptables
from .._system.files import HEALTH_CHECKS, FileAdapter
from .._system.lock import exclusive
from .._system.packet_filter import FilterAdapter, Holder
from .._system.runner import Runner
from .._system.service_iptables import ServiceIptables
from .._system.service_nftables import ServiceNftables
from .._system.service_sets import ServiceSets
from . import store
from .virtual_services import (
    devices_of_ipvs_service,
    has_ipvs,
    load_modules,
    made_by_cluster_service,
    made_by_ipvs_service,
    remembered_run,
    wanted_services,
)

KIND = "cluster_service"
ABSENT = "absent"
# What a remembered document has beside the declaration.
_REMEMBERED = ("made", "addresses")
_FILTER = (FilterObject.kind, FilterRule.kind, FilterEntry.kind)
_OF_DEVICES = ("dummy", "address")
_IPVS = ("virtual_service", "real_server", "ipvs_timeouts", *_OF_DEVICES)
Way = Union[ServiceNftables, ServiceIptables]
_NOTHING: Mapping[str, Any] = {"objects": [], "node": {"name": "none"}}


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Outcome:
    """Bring the node to the document of module cluster_service, or to one that is remembered."""
    with exclusive(KIND, check):
        return Run(document, check, runner).converge()


def change(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Run, Outcome]:
    """Bring the node to the parameters of the module, and remember them. Raises SpecError for a service that module
    ipvs_service has."""
    return remembered_run(KIND, check, lambda: Run(document, check, runner))


class Run:
    """One run with what it is about: the declaration, and what the node remembers of earlier ones."""

    def __init__(self, document: Mapping[str, Any], check: bool, runner: Runner) -> None:
        self.absent = document.get("state") == ABSENT
        self.content = {key: value for key, value in document.items() if key not in ("state", *_REMEMBERED)}
        # Of a remembered document. At boot not all of them may be there yet, and later others come with the first pod.
        self.addresses = addresses_of(document) if "addresses" in document else None
        self.check = check
        self.runner = runner
        self.wanted = self._parsed()
        self.remembered = {
            **self.content,
            "made": sorted(each.service for each in self.wanted.declared.services),
            "addresses": list(self.wanted.addresses),
        }

    @property
    def skipped(self) -> Tuple[Skipped, ...]:
        return self.wanted.skipped

    def converge(self) -> Outcome:
        modules = Outcome({}, {}, []) if self.absent else load_modules(self.wanted.declared, self.check, self.runner)
        ways = self._ways()
        holders: List[Holder] = [ServiceSets(self.runner), *ways]
        adapters: Dict[str, Adapter] = dict.fromkeys(_FILTER, FilterAdapter(holders))
        adapters[File.kind] = FileAdapter([HEALTH_CHECKS])
        adapters.update(self._of_ipvs())
        plan = _Plan(self._services(), self._rules(ways), self.wanted.health_checks)
        return together(modules, engine_converge(Combined(adapters), plan, self.check, self._around))

    def _of_ipvs(self) -> Dict[str, Adapter]:
        if has_ipvs():
            return dict.fromkeys(_IPVS, IpvsAdapter([DEVICE], drain=self.wanted.declared.drain))
        # It may have been taken away by hand, or in check mode have yet to come. Devices can be there with no services.
        return dict.fromkeys(_OF_DEVICES, DeviceAdapter([DEVICE]))

    def refuse_others(self) -> None:
        names = made_by_ipvs_service().intersection(each.service for each in self.wanted.declared.services)
        if names:
            text = f"service {min(names)} is one of module ipvs_service on this node, so not ours to change"
            raise SpecError("objects", text)

    def kept(self) -> Optional[Dict[str, Any]]:
        """The document to remember, None for nothing."""
        return None if self.absent else self.remembered

    def _parsed(self) -> ClusterServices:
        """Addresses are asked for as they are, where they are not remembered: node ports are at all of them but those
        of other virtual services."""
        if self.absent:
            return parse_cluster_services(_NOTHING, [])
        own = sorted(elsewhere([DEVICE, *devices_of_ipvs_service()])) if self.addresses is None else self.addresses
        return parse_cluster_services(self.content, own)

    def _services(self) -> Wanted:
        own = self.wanted.members.union(self.wanted.addresses)
        return wanted_services(self.wanted.declared, OVERRIDDEN, made_by_cluster_service(), [DEVICE], own)

    def _ways(self) -> List[Way]:
        """To the packet filter, nftables first."""
        kinds = [ServiceIptables(each.backend, each.commands, self.runner) for each in iptables.find(self.runner)]
        return [ServiceNftables(self.runner), *kinds]

    def _rules(self, ways: List[Way]) -> State:
        """Those wanted, of one way."""
        if not self.wanted.nat:
            return {}
        way = self._chosen(ways)
        state: State = {}
        for nat in self.wanted.nat:
            state.update(way.wanted(nat))
        return state

    def _chosen(self, ways: List[Way]) -> Way:
        """That which holds the rules for pods where it can, and else the first that works."""
        asked = self.wanted.backend
        allowed = [one for one in ways if asked == AUTO or one.backend.startswith(asked)]
        remembered = (store.recall("masquerade") or {}).get("remembered")
        allowed.sort(key=lambda one: one.backend != remembered)
        problems = []
        for way in allowed:
            try:
                for nat in self.wanted.nat:
                    way.probe(nat.version, self.check)
                return way
            except PrerequisiteError as error:
                problems.append(f"{way.backend}: {error}")
        raise PrerequisiteError(f"no way to the packet filter works for services: {'; '.join(problems)}")

    def _around(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.absent else store.noted(KIND, self.remembered)


class _Plan:
    """Rules come before the services that need them, and go after them."""

    def __init__(self, services: Wanted, rules: State, health_checks: Sequence[HealthCheck]) -> None:
        self.services = services
        self.rules = rules
        self.health_checks = health_checks

    def __call__(self, have: State) -> List[Operation]:
        of_filter = {key: item for key, item in have.items() if item.kind in _FILTER}
        of_ipvs = {key: item for key, item in have.items() if item.kind in _IPVS}
        rules = difference(of_filter, self.rules, {FilterObject.kind: 0, FilterEntry.kind: 1, FilterRule.kind: 2})
        coming = [each for each in rules if each.action != DELETE]
        going = [each for each in rules if each.action == DELETE]
        told = plan_health_checks(have, HEALTH_CHECKS, self.health_checks)
        return told.first + coming + plan_services(of_ipvs, self.services) + going + told.last
