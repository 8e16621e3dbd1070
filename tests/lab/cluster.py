# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""A lab as the cluster tests see it: playbooks run against it, and its nodes looked at from outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import processes

TOP = Path(__file__).resolve().parents[2]
#: Only what hangs takes as long: the first lab of a machine is built, and nodes may install packages.
HANG_SECONDS, COMMAND_SECONDS = 1800, 600
ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


def lab_name(purpose: str) -> str:
    """A lab's name that no other checkout on this machine uses, and that a next run of this one finds again."""
    return f"{purpose}-{hashlib.sha256(str(TOP).encode()).hexdigest()[:4]}"


def family(pid: int) -> list[processes.Process]:
    """A process and all that descend from it, parents first."""
    own = processes.process(pid)
    found = [own] if own is not None else []
    for child in processes.children(pid):
        found += family(child.pid)
    return found


def stopped_family(pid: int) -> list[processes.Process]:
    """The same, where none of them goes on and starts another one."""
    found: list[processes.Process] = []
    while (now := family(pid)) != found:
        found = now
        for each in found:
            processes.send(each, signal.SIGSTOP)
    return found


@dataclass(frozen=True)
class Run:
    """A finished ansible-playbook: exit status, everything it printed, and the counts of each host."""

    status: int
    output: str
    hosts: dict[str, dict[str, int]]

    def total(self, what: str) -> int:
        return sum(host[what] for host in self.hosts.values())


class Cluster:
    """A lab made from ``inventory``; as a context manager it is taken down whatever happens."""

    def __init__(
        self, purpose: str, directory: Path, inventory: str = "inventories/lab", kind: str | None = None
    ) -> None:
        self.name = lab_name(purpose)
        self.directory = directory
        self.inventory = inventory
        self.kind = kind

    def __enter__(self) -> Cluster:
        # An earlier run that was killed may have left it.
        self.lab("down")
        try:
            self.lab("up", *(["--kind", self.kind] if self.kind else []))
        except BaseException:
            self.lab("down")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.lab("down")

    def lab(self, verb: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "lab", verb, "--name", self.name, "-i", self.inventory, *arguments]
        done = subprocess.run(
            command, cwd=TOP, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=HANG_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"lab {verb} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def command(self, playbook: str, *arguments: str) -> list[str]:
        path = f"playbooks/{playbook}.yml"
        return [str(ANSIBLE_PLAYBOOK), "-i", self.inventory, path, "-e", f"lab_name={self.name}", *arguments]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            # Of SSH's greeting too, which a busy machine is late with.
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_STDOUT_CALLBACK": "fairlead.cluster.progress",
            "FAIRLEAD_PROGRESS_JSON": str(self.directory / "progress.json"),
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {TOP}/build/lab/{self.name}/ssh_config",
        }

    def playbook(self, playbook: str, *arguments: str, expect: int = 0) -> Run:
        summary = self.directory / "progress.json"
        summary.unlink(missing_ok=True)
        done = subprocess.run(
            self.command(playbook, *arguments), cwd=TOP, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=HANG_SECONDS,
        )  # fmt: skip
        hosts = json.loads(summary.read_text())["hosts"] if summary.exists() else {}
        assert done.returncode == expect, (
            f"{playbook} {arguments}: exit status {done.returncode}\n{done.stdout[-6000:]}"
        )
        return Run(done.returncode, done.stdout, hosts)

    def interrupt(self, playbook: str, after_tasks: int) -> bool:
        """Kill the playbook with all its processes in its ``after_tasks``-th task; False if it ended before."""
        environment = {**self.environment(), "ANSIBLE_STDOUT_CALLBACK": "default"}
        process = subprocess.Popen(
            self.command(playbook), cwd=TOP, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("TASK [")
            if seen == after_tasks:
                # A moment into the task, so that its work on the nodes has begun.
                time.sleep(0.3)
                # Workers of Ansible are in sessions of their own: killing the group would leave them waiting for ever.
                processes.kill(stopped_family(process.pid))
                process.wait()
                return True
        process.wait()
        return False

    def playbooks(self) -> list[str]:
        """Command lines of the ansible-playbook processes that work on this lab."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                if f"lab_name={self.name}" in words and str(ANSIBLE_PLAYBOOK) in words:
                    lines.append(" ".join(words))
        return lines

    def run(self, node: str, *command: str, expect: int | None = 0) -> str:
        """Run a command on a node over SSH, past Ansible."""
        config = str(TOP / "build" / "lab" / self.name / "ssh_config")
        done = subprocess.run(
            ["ssh", "-F", config, node, shlex.join(command)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert expect is None or done.returncode == expect, f"{node}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def module(self, node: str, name: str, parameters: dict[str, Any]) -> None:
        """Run one module of the collection on one node."""
        done = subprocess.run(
            [str(ANSIBLE_PLAYBOOK.with_name("ansible")), node, "-i", self.inventory, "-e", f"lab_name={self.name}",
             "-m", f"fairlead.cluster.{name}", "-a", json.dumps(parameters)],
            cwd=TOP, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{node}: {name}: {done.stdout}{done.stderr}"

    def json(self, node: str, *command: str) -> Any:
        return json.loads(self.run(node, *command) or "null")
