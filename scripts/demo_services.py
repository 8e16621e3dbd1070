# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The part of the demo about services: pods behind a service, reached from everywhere, and one of them drained."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2

from lab import state

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
EXAMPLES = TOP / "examples/services"
CLUSTER_IP, CLUSTER_IP6, EXTERNAL_IP, BALANCER = "10.96.0.80", "[fd00:10:96::80]", "198.51.100.80", "203.0.113.80"
NODE_PORT, LOCAL_NODE_PORT = 30080, 30081
# Requests for each row of the table: enough that every endpoint answers some.
ASKED = 12
#: Downloads that go on while an endpoint is drained, and how long each takes.
DOWNLOADS, SECONDS = 8, 60.0
START_SECONDS = 60.0
# Python is on every node, curl is not.
_CLIENT = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(int(sys.argv[2])):
    print(opener.open(sys.argv[1], timeout=10).read().decode().split(chr(10))[0])
"""
Playbook = Callable[[str, str, dict[str, Any]], Any]


class Services:
    """Those of the demo in one lab. ``playbook`` runs one by its path below the checkout with extra variables."""

    def __init__(self, name: str, playbook: Playbook) -> None:
        lab = state.load(name)
        assert lab is not None, f"there is no lab {name}"
        self.lab = lab
        self.playbook = playbook
        self.pods_file = BUILD / "pods.json"
        self.endpoints_file = BUILD / "endpoints.yml"

    def make(self) -> list[Any]:
        """Pods, and the services in front of them; the second run shows that it changes nothing."""
        pods = self.playbook("pods", "examples/services/pods.yml", {"pods_file": str(self.pods_file)})
        return [pods, self.apply("services.yml"), self.apply("services.yml again")]

    def apply(self, name: str, without: str = "") -> Any:
        """Run services.yml; ``without`` is a node whose pod is to be no endpoint any more."""
        pods = [pod for pod in json.loads(self.pods_file.read_text()) if pod["node"] != without]
        template = jinja2.Template((EXAMPLES / "endpoints.yml.j2").read_text())
        self.endpoints_file.write_text(template.render(pods=pods))
        files = [str(EXAMPLES / "web.yml"), str(self.endpoints_file)]
        drain = int(SECONDS) + 30
        return self.playbook(name, "playbooks/services.yml", {"services_files": files, "services_drain_seconds": drain})

    def rows(self) -> list[list[str]]:
        """Who asked whom, what answered how often, and whom the endpoints saw."""
        first, *others = self.lab.nodes
        asked = [(f"pod on {first}", self._on(first, pod=True), f"http://{CLUSTER_IP}/")]
        asked += [(f"pod on {first}", self._on(first, pod=True), f"http://{CLUSTER_IP6}/")]
        asked += [(node, self._on(node), f"http://{CLUSTER_IP}/") for node in (first, *others)]
        address = self.lab.nodes[first]
        with self._routes(first):
            asked += [
                ("outside, node port", self._outside(), f"http://{address}:{NODE_PORT}/"),
                ("outside, external IP", self._outside(), f"http://{EXTERNAL_IP}/"),
                ("outside, balancer", self._outside(), f"http://{BALANCER}/"),
                ("outside, policy Local", self._outside(), f"http://{address}:{LOCAL_NODE_PORT}/"),
            ]
            return [_row(who, url, _ask(command, url, ASKED)) for who, command, url in asked]

    def drain(self, node: str) -> tuple[Any, int, int, int]:
        """Take a pod out of service under load: the stage, and how many downloads and requests there were, how many of
        them failed, and how many requests the pod got after the endpoint was removed."""
        entry = next(iter(self.lab.nodes.values()))
        url = f"http://{entry}:{NODE_PORT}/"
        command = self._outside()
        downloads = [
            subprocess.Popen(
                [*command, f"{url}download?{SECONDS}", "1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(DOWNLOADS)
        ]
        self._await_downloads(next(iter(self.lab.nodes)))
        load = _Load(command, url)
        load.start()
        stage = self.apply("one endpoint drained", without=node)
        load.stop()
        ended = [download.wait(timeout=SECONDS + 60) for download in downloads]
        late = _ask(command, url, ASKED)
        failed = sum(1 for status in ended if status) + load.failed
        return stage, DOWNLOADS + load.asked, failed, sum(1 for line in late if line.startswith(f"{node} "))

    def _await_downloads(self, node: str) -> None:
        """Until the node that is asked has led all of them to their endpoints."""
        end = time.monotonic() + START_SECONDS
        while self._connections(node) < DOWNLOADS:
            if time.monotonic() > end:
                raise SystemExit(f"the downloads have not begun after {START_SECONDS} s")
            time.sleep(0.2)

    def _connections(self, node: str) -> int:
        """How many there are to the node port."""
        command = [*self._ssh(node), "cat /proc/net/ip_vs_conn"]
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
        # The port of the service is the fifth word.
        lines = [line.split() for line in shown.splitlines()]
        return sum(line[4:5] == [f"{NODE_PORT:04X}"] and "ESTABLISHED" in line for line in lines)

    def _outside(self) -> list[str]:
        """From the gateway of the lab's network, which is no node of the cluster."""
        return ["ip", "netns", "exec", self.lab.netns, sys.executable, "-c", _CLIENT]

    def _on(self, node: str, pod: bool = False) -> list[str]:
        inside = "ip netns exec web-example " if pod else ""
        return [*self._ssh(node), f"{inside}python3 -c '{_CLIENT}'"]

    def _ssh(self, node: str) -> list[str]:
        # Ansible's connection, which it may be closing, is not shared.
        return ["ssh", "-F", str(self.lab.dir / "ssh_config"), "-o", "ControlPath=none", node]

    @contextmanager
    def _routes(self, node: str) -> Iterator[None]:
        """Addresses from outside are routed to one of the nodes, as a router in front of the cluster would do."""
        command = ["ip", "-n", self.lab.netns, "route"]
        hosts = [f"{address}/32" for address in (EXTERNAL_IP, BALANCER)]
        for host in hosts:
            subprocess.run([*command, "replace", host, "via", self.lab.nodes[node]], check=True)
        try:
            yield
        finally:
            for host in hosts:
                subprocess.run([*command, "delete", host], check=True)


class _Load(threading.Thread):
    """Asks again and again."""

    def __init__(self, command: list[str], url: str) -> None:
        super().__init__()
        self.command, self.url = command, url
        self.asked = self.failed = 0
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.is_set():
            answers = _ask(self.command, self.url, ASKED)
            self.asked += ASKED
            self.failed += ASKED - len(answers)

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def _ask(command: list[str], url: str, count: int) -> list[str]:
    """Lines "POD CLIENT", one for each request that was answered."""
    done = subprocess.run(
        [*command, url, str(count)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout.split("\n")[:-1]


def _row(who: str, url: str, answers: list[str]) -> list[str]:
    spread = collections.Counter(answer.split(" ")[0] for answer in answers)
    seen = sorted({answer.split(" ")[1] for answer in answers})
    shown = ", ".join(seen[:2]) + (f" and {len(seen) - 2} more" if len(seen) > 2 else "")
    good = "ok" if len(answers) == ASKED else f"{ASKED - len(answers)} FAILED"
    return [who, url, good, " ".join(f"{pod} {spread[pod]}" for pod in sorted(spread)), shown]
