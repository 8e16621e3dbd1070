# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Real servers that go while clients have connections to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import packets, tcp_flows
from tests.kernel.conftest import MODULES
from tests.kernel.ipvs_lan import Lan
from tests.kernel.ipvs_nodes import MODULE, Args, apply_to, server, service, table
from tests.kernel.namespaces import Namespaces
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("ipvs")

ADDRESS = "10.96.0.80"
#: What starting, reading and verifying may take on a busy machine, in seconds.
SLACK = 30.0


@pytest.fixture
def lan(netns: Namespaces) -> Iterator[Lan]:
    """With a server s1 and a server s2."""
    made = Lan(netns, 2)
    with tcp_flows.server(made.servers[0], "s1"), tcp_flows.server(made.servers[1], "s2"):
        yield made


def document(*numbers: int, drain: float = 30, **more: object) -> Args:
    servers = [server(f"10.244.0.1{number}", 8080) for number in numbers]
    return {"services": [service(ADDRESS, 80, *servers, **more)], "drain_seconds": drain}


def without(name: str) -> int:
    """The number of the other server."""
    return 2 if name == "s1" else 1


class Background:
    """The module as a process that goes on."""

    def __init__(self, lan: Lan, directory: Path, root: Path, args: Args) -> None:
        internal = {"_ansible_remote_tmp": str(directory)}
        environment = {
            **os.environ,
            "PYTHONPATH": str(root / "collections"),
            "FAIRLEAD_STATE_DIR": str(directory / lan.node.name),
            "FAIRLEAD_RUN_DIR": str(directory / "run"),
        }
        words = [sys.executable, "-m", f"{MODULES}.{MODULE}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = lan.node.start(words, env=environment, **pipes)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {**args, **internal}}))
        self.process.stdin.close()
        self.process.stdin = None

    def result(self) -> Args:
        found: Args = json.loads(self.process.communicate(timeout=300)[0])
        return found


def drained_to(lan: Lan, name: str) -> None:
    """Wait until a server gets no new connections."""
    place = f"10.244.0.1{name[1]}:8080"
    line = f"-a -t {ADDRESS}:80 -r {place} -m -w 0"
    wait_until(lambda: line in table(lan.node), f"{name} gets no new connections")


def test_download_comes_to_its_end_and_the_run_soon_after(lan: Lan, tmp_path: Path, root_dir: Path) -> None:
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 12)
    other = without(flow.server)
    run = Background(lan, tmp_path, root_dir, document(other, drain=60))
    drained_to(lan, flow.server)
    assert set(tcp_flows.ask(lan.client, ADDRESS, times=4)) == {f"s{other}"}
    assert run.process.poll() is None and flow.process.poll() is None
    assert flow.result() == "complete"
    ended = time.monotonic()
    result = run.result()
    assert time.monotonic() - ended < SLACK
    assert result["changed"] and "weight 0 (was real server" in result["operations"][0]
    assert table(lan.node) == [f"-A -t {ADDRESS}:80 -s rr", f"-a -t {ADDRESS}:80 -r 10.244.0.1{other}:8080 -m -w 1"]
    assert not apply_to(tmp_path, lan.node, document(other, drain=60)).changed


def test_client_that_never_ends_is_cut_after_the_time(lan: Lan, tmp_path: Path) -> None:
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 300)
    started = time.monotonic()
    apply_to(tmp_path, lan.node, document(without(flow.server), drain=4))
    assert 4 <= time.monotonic() - started < 4 + SLACK
    received = int(flow.result())
    assert 20 <= received < 2000
    assert set(tcp_flows.ask(lan.client, ADDRESS, times=2)) == {f"s{without(flow.server)}"}


def test_without_time_it_goes_at_once(lan: Lan, tmp_path: Path) -> None:
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 300)
    gone = apply_to(tmp_path, lan.node, document(without(flow.server), drain=0))
    assert [str(each)[0] for each in gone.operations if each.item.kind == "real_server"] == ["-"]
    assert len(table(lan.node)) == 2
    flow.end()


def test_service_that_goes_takes_its_servers_at_once(lan: Lan, tmp_path: Path) -> None:
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 300)
    started = time.monotonic()
    apply_to(tmp_path, lan.node, {"state": "deleted"})
    assert time.monotonic() - started < SLACK and table(lan.node) == []
    flow.end()


def test_udp_goes_at_once(lan: Lan, tmp_path: Path) -> None:
    servers = [server(f"10.244.0.1{number}", packets.PORT) for number in (1, 2)]
    args = {"services": [service("10.96.0.53", 53, *servers, protocol="udp")], "drain_seconds": 60}
    apply_to(tmp_path, lan.node, args)
    with packets.server(lan.servers[0]), packets.server(lan.servers[1]):
        assert [packets.ask(lan.client, "10.96.0.53", port=53) for _time in (1, 2)] == ["192.0.2.9"] * 2
    assert "UDP" in lan.node.out("ipvsadm -Lcn")
    args["services"][0]["servers"] = servers[:1]
    started = time.monotonic()
    gone = apply_to(tmp_path, lan.node, args)
    assert time.monotonic() - started < SLACK
    assert [str(each)[0] for each in gone.operations if each.item.kind == "real_server"] == ["-"]


@contextlib.contextmanager
def interrupted(lan: Lan, tmp_path: Path, root_dir: Path) -> Iterator[tcp_flows.Download]:
    """A run that was killed while it waited for a download."""
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 25)
    run = Background(lan, tmp_path, root_dir, document(without(flow.server), drain=120))
    try:
        drained_to(lan, flow.server)
        run.process.send_signal(signal.SIGKILL)
        run.process.communicate()
        yield flow
    finally:
        run.process.kill()
        flow.end()


def test_interrupted_drain_goes_on_with_the_next_run(lan: Lan, tmp_path: Path, root_dir: Path) -> None:
    with interrupted(lan, tmp_path, root_dir) as flow:
        assert len(table(lan.node)) == 3
        apply_to(tmp_path, lan.node, document(without(flow.server), drain=120))
        assert flow.process.wait(timeout=120) == 0 and flow.result() == "complete"
        assert len(table(lan.node)) == 2


def test_server_that_comes_back_while_it_drains(lan: Lan, tmp_path: Path, root_dir: Path) -> None:
    with interrupted(lan, tmp_path, root_dir) as flow:
        back = apply_to(tmp_path, lan.node, document(1, 2))
        assert [str(each)[0] for each in back.operations if each.item.kind == "real_server"] == ["~"]
        assert set(tcp_flows.ask(lan.client, ADDRESS, times=4)) == {"s1", "s2"}
        assert flow.result() == "complete"


def test_only_the_server_that_goes_is_waited_for(lan: Lan, tmp_path: Path) -> None:
    """A connection to a server that stays holds nobody up."""
    apply_to(tmp_path, lan.node, document(1, 2))
    flow = tcp_flows.Download(lan.client, ADDRESS, 300)
    leaving = int(flow.server[1])
    tcp_flows.ask(lan.client, ADDRESS, times=2)
    started = time.monotonic()
    apply_to(tmp_path, lan.node, document(leaving, drain=60))
    assert time.monotonic() - started < 1 + SLACK
    assert flow.process.poll() is None
    flow.end()
