# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy left in the kernel in modes that it is not in any more, removed; nothing of others is."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Any, Dict, FrozenSet, List, Mapping, Tuple

from .._engine import Adapter, Combined, Outcome
from .._engine import converge as engine_converge
from .._model.datapath import DeviceAddress
from .._model.errors import ApplyError, SpecError, VerifyError
from .._model.ipvs import DummyDevice, RealServer, Timeouts, VirtualService
from .._model.item import Item, State
from .._model.kube_proxy import DIRECTORY
from .._model.kube_proxy_options import IPVS, MODES
from .._model.kube_proxy_state import (
    DEVICE,
    NONE,
    Chains,
    IpSet,
    NftTable,
    StateWish,
    is_kube_proxy_s,
    parse_state_wish,
    sets_go,
    table_goes,
)
from .._netlink.dummy import elsewhere
from .._netlink.ipvs_adapter import IpvsAdapter
from .._plan.operation import Operation, difference
from .._system.files import read_file
from .._system.kernel_modules import is_there
from .._system.kube_proxy_state import ChainsAdapter, SetsAdapter, TablesAdapter
from .._system.runner import Runner
from .virtual_services import made_by_cluster_service, made_by_ipvs_service

# How often it is tried, and seconds in between.
_ATTEMPTS, _PAUSE = 5, 2
# What goes first has the highest: rules let go of sets, and services of addresses.
_RANKS = {
    Chains.kind: 6,
    IpSet.kind: 5,
    NftTable.kind: 5,
    RealServer.kind: 4,
    VirtualService.kind: 3,
    DeviceAddress.kind: 2,
    DummyDevice.kind: 1,
}
_IPVS_KINDS = (VirtualService.kind, RealServer.kind, Timeouts.kind, DummyDevice.kind, DeviceAddress.kind)


def converge(document: Mapping[str, Any], check: bool, runner: Runner) -> Tuple[Outcome, List[str]]:
    """Document: see ``parse_state_wish``. Gives the virtual services that stay, too.

    Raises SpecError, with nothing changed, when kube-proxy of this node is configured for another mode than stays; not
    in check mode when ``switching`` says that it would be by now.
    """
    wish = parse_state_wish(document)
    if not (check and document.get("switching")):
        _refuse_other_mode(wish, str(document.get("directory") or DIRECTORY))
    state = _Ours(wish)
    adapters: Dict[str, Adapter] = {
        Chains.kind: ChainsAdapter(wish, runner),
        IpSet.kind: SetsAdapter(sets_go(wish), runner),
        NftTable.kind: TablesAdapter(table_goes(wish), runner),
    }
    if wish.keep != IPVS and is_there("ip_vs"):
        adapters.update(dict.fromkeys(_IPVS_KINDS, IpvsAdapter([DEVICE])))
    outcome = _converge(Combined(adapters), state, check)
    return Outcome(state.only(outcome.before), state.only(outcome.after), outcome.operations), state.others(
        outcome.after
    )


def _converge(adapter: Adapter, state: _Ours, check: bool) -> Outcome:
    """kube-proxy writes to the same tables whenever it likes: what was read may have changed when it is to go."""
    for _attempt in range(_ATTEMPTS - 1):
        with contextlib.suppress(ApplyError, VerifyError):
            return engine_converge(adapter, state.plan, check)
        time.sleep(_PAUSE)
    return engine_converge(adapter, state.plan, check)


def _refuse_other_mode(wish: StateWish, directory: str) -> None:
    file = read_file(os.path.join(directory, "config.yaml"))
    found = re.search(r'^mode: "(\w+)"$', file.content, re.MULTILINE) if file is not None else None
    if found and wish.keep != NONE and found[1] in MODES and found[1] != wish.keep:
        raise SpecError("keep", f"{wish.keep}, and kube-proxy of this node is configured for mode {found[1]}")


class _Ours:
    """Tells what is kube-proxy's. Whatever else is there is left as it is."""

    def __init__(self, wish: StateWish) -> None:
        self.wish = wish
        self.of_this_collection = made_by_cluster_service() | made_by_ipvs_service()

    def plan(self, have: State) -> List[Operation]:
        return difference(self.only(have), {}, _RANKS)

    def only(self, have: State) -> State:
        services = self._services(have)
        return {key: item for key, item in have.items() if self._goes(item, services)}

    def others(self, have: State) -> List[str]:
        names = {item.service for item in have.values() if isinstance(item, VirtualService)}
        return sorted(names - self._services(have) - self.of_this_collection)

    def _services(self, have: State) -> FrozenSet[str]:
        addresses = [item.address for item in have.values() if isinstance(item, DeviceAddress)]
        virtual = frozenset(address.partition("/")[0] for address in addresses)
        names = {item.service for item in have.values() if isinstance(item, VirtualService)}
        # kube-proxy's device is what tells that it was in mode ipvs. It goes last, so node ports of a run that was cut
        # off are known too; without it they are somebody else's.
        local = elsewhere([DEVICE]) if names and DummyDevice(DEVICE).key in have else frozenset()
        ours = (name for name in names - self.of_this_collection if is_kube_proxy_s(self.wish, name, virtual, local))
        return frozenset(ours)

    def _goes(self, item: Item, services: FrozenSet[str]) -> bool:
        if isinstance(item, (VirtualService, RealServer)):
            return item.service in services
        return not isinstance(item, Timeouts)
