# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Output for people who watch a run: one line a task, what failed in full, and a recap that counts work on nodes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: One line a task, with seconds and counts
version_added: 0.1.0
author: the Fairlead authors (@fairlead)
description:
  - Shows each task in one line when all hosts are through, with its seconds and the number of hosts by outcome.
  - Failures, unreachable hosts, warnings, differences and results that are asked for by C(-v) look as in
    P(ansible.builtin.default#callback).
  - The recap has the number of tasks that a node was asked to run. That is what a run costs; tasks that only the
    controller works on are left out.
extends_documentation_fragment:
  - ansible.builtin.default_callback
  - ansible.builtin.result_format_callback
requirements:
  - set as C(stdout_callback) in C(ansible.cfg) or E(ANSIBLE_STDOUT_CALLBACK)
options:
  summary_file:
    description:
      - Write a summary to this file at the end, as JSON.
      - C(seconds) is the whole run. C(stages) has for each play C(name), C(seconds) and C(tasks), the number of
        remote tasks by host. C(hosts) has for each host C(tasks) and Ansible's own counts.
    type: path
    env:
      - name: FAIRLEAD_PROGRESS_JSON
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

# Actions that need no connection to the host they are about.
ON_CONTROLLER = {
    "add_host",
    "assert",
    "debug",
    "fail",
    "group_by",
    "import_playbook",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "pause",
    "set_fact",
    "set_stats",
    "validate_argument_spec",
}
LOCAL = {"localhost", "127.0.0.1", "::1"}
OUTCOMES = {
    "ok": constants.COLOR_OK,
    "changed": constants.COLOR_CHANGED,
    "skipped": constants.COLOR_SKIP,
    "ignored": constants.COLOR_SKIP,
    "failed": constants.COLOR_ERROR,
    "unreachable": constants.COLOR_UNREACHABLE,
}
COLUMNS = ("ok", "changed", "failures", "unreachable", "skipped", "rescued", "ignored")
NAME_WIDTH = 66


class Stage:
    """One play: when it began, and the remote tasks of each host."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.began = self.ended = now
        self.tasks: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def to_dict(self) -> Dict[str, Any]:
        return {"name": self.name, "seconds": round(self.seconds, 1), "tasks": dict(sorted(self.tasks.items()))}


class Running:
    """The task that hosts are working on."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.began = now
        self.outcomes: Counter[str] = Counter()

    def line(self, now: float) -> str:
        counts = "  ".join(f"{name} {self.outcomes[name]}" for name in OUTCOMES if self.outcomes[name])
        return f"{now - self.began:7.1f} s  {self.name:{NAME_WIDTH}}  {counts}".rstrip()

    @property
    def color(self) -> str:
        """That of the worst outcome."""
        worst = next((color for name, color in reversed(OUTCOMES.items()) if self.outcomes[name]), constants.COLOR_OK)
        return str(worst)


def remote_runs(task: Any, result: Dict[str, Any]) -> int:
    """How often the host was asked to run something for a task: once, or once an item of a loop."""
    if task.action.rsplit(".", 1)[-1] in ON_CONTROLLER or task.delegate_to in LOCAL:
        return 0
    runs = result["results"] if task.loop and isinstance(result.get("results"), list) else [result]
    return sum(1 for run in runs if not run.get("skipped"))


class CallbackModule(DefaultCallback):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "fairlead.cluster.progress"

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self.stages: List[Stage] = []
        self.running: Optional[Running] = None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._finish_task()
        name = play.get_name().strip() or "play"
        self.stages.append(Stage(name, time.monotonic()))
        mode = " (check mode)" if play.check_mode else ""
        self._display.display(f"\n{name}{mode}", color=constants.COLOR_HIGHLIGHT)

    def _task_start(self, task: Any, prefix: Optional[str] = None) -> None:
        self._finish_task()
        # Names hold templates; what was played before is what this one is called, too.
        self.running = Running(self._short(task.get_name()), time.monotonic())
        if sys.stdout.isatty():
            self._display.display(f"{'':9}  {self.running.name}\r", newline=False)

    def _print_task_banner(self, task: Any) -> None:
        """Called before the details of a result; they need no headline of their own beside the task's name."""
        self._last_task_banner = task._uuid
        self._display.display(f"{'':9}  {self._short(task.get_name())}")

    def _short(self, name: str) -> str:
        name = name.strip().replace("fairlead.cluster.", "")
        return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"

    def _finish_task(self) -> None:
        now = time.monotonic()
        if self.stages:
            self.stages[-1].ended = now
        if self.running is not None and self.running.outcomes:
            self._display.display(self.running.line(now), color=self.running.color)
        self.running = None

    def _count(self, result: Any, outcome: str) -> None:
        if self.running is not None:
            self.running.outcomes[outcome] += 1
        if self.stages and outcome not in ("skipped", "unreachable"):
            self.stages[-1].tasks[result.host.get_name()] += remote_runs(result.task, result.result)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._count(result, "changed" if result.result.get("changed") else "ok")
        if self._run_is_verbose(result) and result.task.action not in constants._ACTION_ALL_INCLUDES:
            super().v2_runner_on_ok(result)
        else:
            self._handle_warnings_and_exception(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._run_is_verbose(result):
            super().v2_runner_item_on_ok(result)
        else:
            self._handle_warnings_and_exception(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._count(result, "skipped")

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """An item that is left out is no news."""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._count(result, "ignored" if ignore_errors else "failed")
        super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._count(result, "unreachable")
        super().v2_runner_on_unreachable(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """The tasks of the file tell enough."""

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._finish_task()
        hosts = {host: self._host_counts(host, stats) for host in sorted(stats.processed)}
        seconds = time.monotonic() - self.began
        self._show_recap(hosts, seconds)
        path = self.get_option("summary_file")
        if path:
            stages = [stage.to_dict() for stage in self.stages]
            summary = {"seconds": round(seconds, 1), "stages": stages, "hosts": hosts}
            Path(path).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    def _host_counts(self, host: str, stats: Any) -> Dict[str, int]:
        counts = stats.summarize(host)
        return {"tasks": sum(stage.tasks[host] for stage in self.stages), **{name: counts[name] for name in COLUMNS}}

    def _show_recap(self, hosts: Dict[str, Dict[str, int]], seconds: float) -> None:
        width = max([len("node"), *map(len, hosts)])
        self._display.display(
            f"\n{'node':{width}}  remote tasks  changed  failed  unreachable", color=constants.COLOR_HIGHLIGHT
        )
        for host, counts in hosts.items():
            bad = counts["failures"] or counts["unreachable"]
            color = (
                constants.COLOR_ERROR if bad else constants.COLOR_CHANGED if counts["changed"] else constants.COLOR_OK
            )
            line = f"{counts['tasks']:12}  {counts['changed']:7}  {counts['failures']:6}  {counts['unreachable']:11}"
            self._display.display(f"{host:{width}}  {line}", color=color)
        self._display.display(f"{seconds:.1f} s in all")
