# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""The progress output of a real run on this machine: what a person sees, and the summary for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

PLAYBOOK = """
- name: Preparation
  hosts: all
  gather_facts: false
  tasks:
    - name: One node changes
      ansible.builtin.command: "true"
      changed_when: inventory_hostname == 'a'
    - name: Three items, one left out
      ansible.builtin.command: "echo {{ item }}"
      loop: [1, 2, 3]
      when: item != 2
      changed_when: false
    - name: The controller only
      ansible.builtin.set_fact:
        nothing: 1
    - name: Run elsewhere
      ansible.builtin.command: "true"
      changed_when: false
      delegate_to: localhost
    - name: Words
      ansible.builtin.debug:
        msg: words for people
      run_once: true
    - name: A file
      ansible.builtin.copy:
        content: "new line\\n"
        dest: "{{ destination }}"
        mode: "0600"
      run_once: true
    - name: Nobody needs this
      ansible.builtin.command: "false"
      when: false
- name: Breakdown
  hosts: all
  gather_facts: false
  tasks:
    - name: Break one
      ansible.builtin.command: sh -c 'echo the reason >&2; exit 3'
      changed_when: false
      when: inventory_hostname == 'b'
"""


class Run:
    def __init__(self, directory: Path) -> None:
        playbook, summary = directory / "playbook.yml", directory / "summary.json"
        playbook.write_text(PLAYBOOK)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "fairlead.cluster.progress",
            "ANSIBLE_NOCOLOR": "1",
            "FAIRLEAD_PROGRESS_JSON": str(summary),
        }
        variables = {"ansible_python_interpreter": sys.executable, "destination": str(directory / "file")}
        command = [sys.executable, "-m", "ansible", "playbook", "-i", "a,b,", "-c", "local", "--diff", str(playbook)]
        result = subprocess.run(
            [*command, "-e", json.dumps(variables)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        self.status = result.returncode
        self.output = result.stdout
        self.summary: dict[str, Any] = json.loads(summary.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("progress"))


@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("One node changes", "ok 1  changed 1"),
        ("Three items, one left out", "ok 2"),
        ("A file", "changed 1"),
        ("Nobody needs this", "skipped 2"),
        ("Break one", "skipped 1  failed 1"),
    ],
)
def test_task_is_one_line_with_seconds_and_counts(task: str, counts: str, run: Run) -> None:
    assert re.search(rf"^ +\d+\.\d s  {re.escape(task)} +{counts}$", run.output, re.MULTILINE), run.output


def test_failure_is_shown_in_full(run: Run) -> None:
    assert run.status == 2
    assert "fatal: [b]: FAILED!" in run.output
    assert "stderr: the reason" in run.output
    assert "non-zero return code" in run.output


def test_difference_and_words_for_people_are_shown(run: Run) -> None:
    assert "+new line" in run.output
    assert "words for people" in run.output


def test_recap_counts_what_nodes_were_asked_to_run(run: Run) -> None:
    """On a: command, two items, copy. Not the fact, the words, the delegated and the skipped task."""
    assert re.search(r"^a +4 +2 +0 +0$", run.output, re.MULTILINE), run.output
    assert re.search(r"^b +4 +0 +1 +0$", run.output, re.MULTILINE), run.output


def test_summary_has_stages_and_hosts(run: Run) -> None:
    stages = {stage["name"]: stage for stage in run.summary["stages"]}
    assert stages["Preparation"]["tasks"] == {"a": 4, "b": 3}
    assert stages["Breakdown"]["tasks"] == {"b": 1}
    assert 0 < stages["Preparation"]["seconds"] <= run.summary["seconds"]
    assert run.summary["hosts"]["a"]["changed"] == 2
    assert run.summary["hosts"]["b"]["failures"] == 1
