# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of virtual services against a model of the kernel that objects to every wrong order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import DeviceAddress
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ip_version import IPV4, IPV6
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import (
    DummyDevice,
    RealServer,
    Timeouts,
    VirtualService,
    mark_name,
    service_name,
    service_parts,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs_service import Scope, parse_services
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.ipvs import (
    DELETED,
    MERGED,
    OVERRIDDEN,
    REPLACED,
    Wanted,
    plan_services,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import ADD, DELETE, Operation

EXAMPLES = 1000
DEVICE, OLD = "fairlead-ipvs", "svc0"
HOSTS = ["10.96.0.1", "10.96.0.2", "10.97.0.1", "fd00:96::1", "fd00:97::1"]
NAMES = [
    *(service_name(protocol, host, port) for host in HOSTS for protocol, port in (("tcp", 80), ("udp", 53))),
    mark_name(7, IPV4),
    mark_name(7, IPV6),
    mark_name(70, IPV4),
]
STATES = (OVERRIDDEN, REPLACED, MERGED, DELETED)
SCOPES = [
    [],
    [{"network": "10.96.0.0/16"}],
    [{"network": "fd00::/16", "ports": "80"}, {"marks": "1-9"}],
    [{"network": "0.0.0.0/0"}, {"network": "::/0"}, {"marks": "1-100"}],
]


class Kernel:
    """Real servers hang on services, addresses on devices. With what they hang on they go silently; a plan must never
    rely on that, because it could not be undone."""

    def __init__(self, state: State) -> None:
        self.state = dict(state)

    def carry_out(self, operations: Iterable[Operation]) -> None:
        for action, item, previous in operations:
            if action == ADD:
                assert item.key not in self.state, f"{item} is there already"
                assert self._holder(item) is None or self._holder(item) in self.state, f"{item} hangs on nothing"
            else:
                assert item.key in self.state, f"{item} is not there"
            if action == DELETE:
                assert all(self._holder(other) != item.key for other in self.state.values()), f"{item} holds others"
                del self.state[item.key]
            else:
                assert action == ADD or (previous is not None and previous.compared == self.state[item.key].compared)
                self.state[item.key] = item

    @staticmethod
    def _holder(item: Item) -> object:
        if isinstance(item, RealServer):
            return ("virtual_service", item.service)
        return ("dummy", item.device) if isinstance(item, DeviceAddress) else None


def compared(state: State) -> dict[object, object]:
    return {key: item.compared for key, item in state.items()}


@st.composite
def items(draw: st.DrawFn, devices: Iterable[str], found: bool) -> State:
    """``found`` are real servers with connections."""
    made: list[Item] = []
    counts = st.integers(0, 2) if found else st.just(0)
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6)):
        made.append(VirtualService(name, draw(st.sampled_from(["rr", "sh"]))))
        prefix = "[fd00:244::" if service_parts(name).version is IPV6 else "10.244.0."
        closing = "]" if prefix[0] == "[" else ""
        for number in draw(st.lists(st.integers(1, 3), unique=True, max_size=3)):
            server = RealServer(name, f"{prefix}{number}{closing}:80", weight=draw(st.integers(0, 2)))
            made.append(server._replace(active=draw(counts), inactive=draw(counts)))
    for device in devices:
        held = draw(st.lists(st.sampled_from(HOSTS), unique=True, max_size=3))
        made += [DummyDevice(device)] if held or draw(st.booleans()) else []
        made += [DeviceAddress(device, f"{host}/{128 if ':' in host else 32}") for host in held]
    return state_of(made)


@st.composite
def runs(draw: st.DrawFn) -> tuple[State, Wanted]:
    have = draw(items([DEVICE, OLD], found=True))
    have.update(state_of([Timeouts(draw(st.sampled_from([900, 1000])), 120, 300)]))
    state = draw(st.sampled_from(STATES))
    wished = draw(items([DEVICE], found=False))
    if not any(isinstance(item, DeviceAddress) for item in wished.values()):
        wished.pop(("dummy", DEVICE), None)
    if state == DELETED:
        wished = {key: item for key, item in wished.items() if item.kind in ("virtual_service", "real_server")}
    elif draw(st.booleans()):
        wished.update(state_of([Timeouts(draw(st.integers(0, 2)), 0, draw(st.integers(0, 2)))]))
    scope = parse_services({"scope": draw(st.sampled_from(SCOPES))}).scope
    earlier = frozenset(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
    others = frozenset(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
    given_up = (Timeouts(1000, 0, 0),) if draw(st.booleans()) else ()
    return have, Wanted(wished, state, scope, earlier, DEVICE, draw(st.booleans()), others, given_up)


def is_ours(service: str, wanted: Wanted) -> bool:
    return service not in wanted.others and (service in wanted.earlier or wanted.scope.covers(service))


@settings(max_examples=EXAMPLES)
@given(runs())
def test_plan_leads_to_what_is_wanted_and_back(run: tuple[State, Wanted]) -> None:
    have, wanted = run
    operations = plan_services(have, wanted)
    kernel = Kernel(have)
    kernel.carry_out(operations)
    reached = dict(kernel.state)
    assert plan_services(reached, wanted) == []
    if wanted.state != DELETED:
        for key, item in wanted.items.items():
            assert item.kind == "ipvs_timeouts" or reached[key].compared == item.compared
    kernel.carry_out(operation.inverse() for operation in reversed(operations))
    assert compared(kernel.state) == compared(have)


@settings(max_examples=EXAMPLES // 4)
@given(runs())
def test_what_is_not_ours_stays(run: tuple[State, Wanted]) -> None:
    have, wanted = run
    kernel = Kernel(have)
    kernel.carry_out(plan_services(have, wanted))
    declared = {item.service for item in wanted.items.values() if isinstance(item, VirtualService)}
    for key, item in have.items():
        if not isinstance(item, (VirtualService, RealServer)):
            continue
        removed = key not in kernel.state
        if item.service in declared:
            # Its own servers go in two states, all of it in the third.
            assert not removed or wanted.state != MERGED
            assert not removed or wanted.state == DELETED or isinstance(item, RealServer)
        elif wanted.state in (MERGED, REPLACED) or not is_ours(item.service, wanted):
            assert kernel.state.get(key) is item
        elif wanted.state == OVERRIDDEN:
            assert removed
        else:
            assert removed != bool(declared)


def services_of(state: State) -> frozenset[str]:
    return frozenset(item.service for item in state.values() if isinstance(item, VirtualService))


@settings(max_examples=EXAMPLES // 4)
@given(runs())
def test_addresses_follow_their_services(run: tuple[State, Wanted]) -> None:
    have, wanted = run
    kernel = Kernel(have)
    kernel.carry_out(plan_services(have, wanted))
    on_old = [key for key in kernel.state if key[:2] in (("dummy", OLD), ("address", OLD))]
    named = any(isinstance(item, VirtualService) for item in wanted.items.values())
    if wanted.state == OVERRIDDEN:
        wished = {key for key in wanted.items if key[0] in ("dummy", "address")}
        assert {key for key in kernel.state if key[0] in ("dummy", "address")} == wished
    elif wanted.state in (REPLACED, MERGED):
        # Those of services that stay are on the present device, whichever they were on.
        before = {item.address for item in have.values() if isinstance(item, DeviceAddress)}
        after = {item.address for item in kernel.state.values() if isinstance(item, DeviceAddress)}
        assert before <= after and on_old == []
    elif not named:
        assert not any(key[0] in ("dummy", "address") for key in kernel.state)
    else:
        declared, there = (services_of(items) for items in (wanted.items, kernel.state))
        used = {service_parts(service).address for service in there | (wanted.earlier - declared)}
        gone = {service_parts(service).address for service in declared} - used
        held = {item.address.partition("/")[0] for item in kernel.state.values() if isinstance(item, DeviceAddress)}
        assert not gone & held


@settings(max_examples=EXAMPLES // 4)
@given(runs())
def test_servers_with_connections_go_last_and_take_no_more(run: tuple[State, Wanted]) -> None:
    have, wanted = run
    operations = plan_services(have, wanted)
    kernel = Kernel(have)
    waited = False
    for operation in operations:
        item = operation.item
        drains = isinstance(item, RealServer) and operation.action == DELETE and bool(item.active or item.inactive)
        stays = drains and Kernel._holder(item) in {**have, **wanted.items} and wanted.drains
        if drains and stays and not _service_goes(operations, item.service) and not item.service.startswith("udp "):
            waited = True
            assert kernel.state[item.key].weight == 0
        else:
            assert not waited, f"{operation} comes after what is waited for"
        kernel.carry_out([operation])


def _service_goes(operations: list[Operation], service: str) -> bool:
    return any(each.action == DELETE and each.item.key == ("virtual_service", service) for each in operations)


@pytest.mark.parametrize(("drains", "expected"), [(True, ["~", "-"]), (False, ["-"])])
def test_drain(drains: bool, expected: list[str]) -> None:
    service = VirtualService("tcp 10.96.0.1:80")
    busy = RealServer(service.service, "10.244.0.1:80", active=1)
    wanted = Wanted(state_of([service]), drains=drains)
    operations = plan_services(state_of([service, busy]), wanted)
    assert [str(operation)[0] for operation in operations] == expected


@pytest.mark.parametrize(
    "busy",
    [
        RealServer("udp 10.96.0.1:80", "10.244.0.1:80", inactive=9),
        RealServer("tcp 10.96.0.1:80", "10.244.0.1:80"),
    ],
    ids=str,
)
def test_nothing_to_wait_for(busy: RealServer) -> None:
    service = VirtualService(busy.service)
    operations = plan_services(state_of([service, busy]), Wanted(state_of([service])))
    assert operations == [Operation(DELETE, busy)]


def test_server_that_drains_already_is_waited_for_again() -> None:
    service = VirtualService("tcp 10.96.0.1:80")
    busy = RealServer(service.service, "10.244.0.1:80", weight=0, active=1)
    operations = plan_services(state_of([service, busy]), Wanted(state_of([service])))
    assert operations == [Operation(DELETE, busy)]


def test_time_outs_of_nought_stay_as_they_are() -> None:
    have = state_of([Timeouts(900, 120, 300)])
    assert plan_services(have, Wanted(state_of([Timeouts(0, 0, 0)]))) == []
    (operation,) = plan_services(have, Wanted(state_of([Timeouts(0, 7, 0)])))
    assert operation.item == Timeouts(900, 7, 300)


@pytest.mark.parametrize("state", [OVERRIDDEN, DELETED])
def test_time_outs_that_are_given_up_become_the_kernels_own(state: str) -> None:
    wanted = Wanted({}, state, given_up=(Timeouts(1000, 0, 77),))
    (operation,) = plan_services(state_of([Timeouts(1000, 7, 77)]), wanted)
    assert operation.item == Timeouts(900, 7, 300)
    assert plan_services(state_of([Timeouts(1001, 7, 78)]), wanted) == []
    assert plan_services({}, wanted) == []


def test_time_outs_that_are_declared_again_are_not_given_up() -> None:
    wanted = Wanted(state_of([Timeouts(1000, 0, 0)]), given_up=(Timeouts(1000, 77, 0),))
    (operation,) = plan_services(state_of([Timeouts(1000, 77, 300)]), wanted)
    assert operation.item == Timeouts(1000, 120, 300)


@pytest.mark.parametrize("state", [OVERRIDDEN, DELETED])
def test_services_of_other_modules_stay(state: str) -> None:
    """In the scope, and also where an earlier run of ours made them."""
    scope = parse_services({"scope": [{"network": "10.96.0.0/12"}]}).scope
    have = state_of([VirtualService("tcp 10.96.0.1:80"), VirtualService("tcp 10.96.0.2:80")])
    others = frozenset(["tcp 10.96.0.1:80"])
    for earlier in (frozenset[str](), others):
        (operation,) = plan_services(have, Wanted({}, state, scope, earlier, others=others))
        assert str(operation) == "- virtual service tcp 10.96.0.2:80 scheduler rr"


def test_addresses_of_services_that_went_before_go_with_their_names() -> None:
    have = state_of([DummyDevice(DEVICE), DeviceAddress(DEVICE, "10.96.0.1/32"), DeviceAddress(DEVICE, "10.96.0.2/32")])
    first, second = (state_of([VirtualService(f"tcp 10.96.0.{last}:80")]) for last in (1, 2))
    assert [str(each) for each in plan_services(have, Wanted(first, DELETED))] == [
        f"- address 10.96.0.1/32 dev {DEVICE}"
    ]
    assert len(plan_services(have, Wanted({**first, **second}, DELETED))) == 3
    # Another service that is remembered brings its packets there when it is back.
    assert plan_services(have, Wanted(first, DELETED, earlier=frozenset(["tcp 10.96.0.1:443"]))) == []


def test_scope_covers_nothing_by_itself() -> None:
    assert not any(Scope().covers(name) for name in NAMES)
