# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy left in a kernel that is played: nothing that only looks like its own, and whole after runs that were
cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.module_utils._desired import kube_proxy_state, store
from ansible_collections.fairlead.cluster.plugins.module_utils._engine import Outcome
from ansible_collections.fairlead.cluster.plugins.module_utils._model.datapath import DeviceAddress
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import ReadError
from ansible_collections.fairlead.cluster.plugins.module_utils._model.ipvs import (
    DummyDevice,
    RealServer,
    Timeouts,
    VirtualService,
)
from ansible_collections.fairlead.cluster.plugins.module_utils._model.item import Item, State, state_of
from ansible_collections.fairlead.cluster.plugins.module_utils._plan.operation import Operation, outcome_of

DEVICE = "kube-ipvs0"
CLUSTER, NODE_PORT, OTHER = "tcp 10.96.0.10:53", "tcp 192.0.2.11:30080", "tcp 192.0.2.11:443"
SERVICES: list[Item] = [VirtualService(name, "rr") for name in (CLUSTER, NODE_PORT, OTHER)]
SERVERS: list[Item] = [RealServer(name, "10.244.1.2:8080") for name in (CLUSTER, NODE_PORT, OTHER)]
DEVICES: list[Item] = [DummyDevice(DEVICE), DeviceAddress(DEVICE, "10.96.0.10/32")]


class KilledError(BaseException):
    pass


class Kernel:
    """With IPVS; it ends the run before it has carried out ``left`` operations and one more. ``words`` are what a
    command fails with; those without are not installed."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.state = state_of([*items, Timeouts(900, 120, 300)])
        self.left = 1 << 20
        self.words: dict[str, str] = {}

    def read(self) -> State:
        return dict(self.state)

    def apply(self, operations: Sequence[Operation]) -> Iterator[Operation]:
        for operation in operations:
            if not self.left:
                raise KilledError
            self.left -= 1
            self.state = outcome_of(self.state, [operation])
            yield operation

    def run(self, args: Sequence[str], data: str | None = None) -> tuple[int, str, str]:
        return (1, "", self.words[args[0]]) if args[0] in self.words else (127, "", "not found")

    def keep(self, mode: str, check: bool = False) -> tuple[Outcome, list[str]]:
        return kube_proxy_state.converge({"keep": mode, "directory": "/nonexistent"}, check, self.run)

    def services(self) -> list[str]:
        return sorted(item.service for item in self.state.values() if isinstance(item, VirtualService))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel([*SERVICES, *SERVERS, *DEVICES])
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "desired"))
    monkeypatch.setattr(kube_proxy_state, "is_there", lambda module: True)
    monkeypatch.setattr(kube_proxy_state, "IpvsAdapter", lambda devices: made)
    monkeypatch.setattr(kube_proxy_state, "elsewhere", lambda devices: frozenset({"127.0.0.1", "192.0.2.11"}))
    # Whoever is killed takes nothing back.
    monkeypatch.setattr("ansible_collections.fairlead.cluster.plugins.module_utils._engine._undo", lambda *_: None)
    return made


@pytest.mark.parametrize("mode", ["nftables", "iptables", "none"])
def test_node_ports_are_kube_proxy_s_where_its_device_is(kernel: Kernel, mode: str) -> None:
    announced, others = kernel.keep(mode, check=True)
    assert others == [OTHER]
    done, others = kernel.keep(mode)
    assert others == [OTHER] == kernel.services() and done.operations == announced.operations
    assert not any(isinstance(item, DummyDevice) for item in kernel.state.values())
    assert not kernel.keep(mode)[0].changed


@pytest.mark.parametrize("mode", ["nftables", "iptables", "none"])
def test_where_it_never_was_in_mode_ipvs_node_ports_are_somebody_else_s(kernel: Kernel, mode: str) -> None:
    """As of keepalived, on an address of the node."""
    kernel.state = state_of([*SERVICES[1:], *SERVERS[1:]])
    before = kernel.read()
    for check in (True, False):
        outcome, others = kernel.keep(mode, check=check)
        assert not outcome.changed and others == [NODE_PORT, OTHER]
    assert kernel.read() == before


def test_run_that_is_cut_off_anywhere_is_finished_by_the_next(kernel: Kernel) -> None:
    start, planned = kernel.read(), len(kernel.keep("nftables", check=True)[0].operations)
    assert planned == 6
    for position in range(planned):
        kernel.state, kernel.left = dict(start), position
        with pytest.raises(KilledError):
            kernel.keep("nftables")
        kernel.left = planned
        kernel.keep("nftables")
        assert kernel.services() == [OTHER] and not kernel.keep("nftables")[0].changed, position


@pytest.mark.parametrize("mode", ["ipvs", "nftables", "iptables", "none"])
def test_kernel_that_cannot_have_rules_or_sets_has_none(kernel: Kernel, mode: str) -> None:
    """The words are those of the commands of Debian 12, where modules ip_set and nfnetlink are missing."""
    kernel.state = {}
    kernel.words = {
        "ipset": "ipset v7.17: Cannot open session to kernel.\n",
        "nft": "mnl.c:60: Unable to initialize Netlink socket: Protocol not supported\n",
        "iptables-save": "iptables-save/1.8.9 (nf_tables) Failed to initialize nft: Protocol not supported\n",
    }
    assert not kernel.keep(mode)[0].changed


@pytest.mark.parametrize("command", ["iptables-save", "ip6tables-save", "ipset", "nft"])
def test_command_that_fails_otherwise_hides_nothing(kernel: Kernel, command: str) -> None:
    before = kernel.read()
    kernel.words = {command: "you must be root"}
    with pytest.raises(ReadError, match=f"^{command}.*: you must be root$"):
        kernel.keep("none")
    assert kernel.read() == before
