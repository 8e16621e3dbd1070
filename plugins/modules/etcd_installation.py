#!/usr/bin/python
# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Unit, configuration and programs of etcd on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_installation
short_description: Unit, configuration and programs of an etcd member, beside no other etcd
version_added: 0.1.0
author: the Fairlead authors
description:
  - Writes the files of an etcd member, and unpacks its programs from a release archive when asked to. Starts nothing.
  - Before anything is written it looks for another etcd on the node, that is a process under O(unit) that was not
    started from files of ours, a file at one of the paths in O(files) that does not carry our mark, and data in
    O(data_dir) that this node does not remember as its own. Any of these is refused with nothing changed.
  - A release is fetched, compared with its checksum, unpacked beside the others and tried out before a file is written
    that leads to it. When one of these fails, everything is as before, and a member that runs goes on.
extends_documentation_fragment: fairlead.cluster.attributes
attributes:
  check_mode:
    description:
      - Reads and plans exactly as in a real run, refusals included, and changes nothing. Fetches nothing.
    support: full
options:
  state:
    description:
      - V(present) ensures O(files) and O(release).
      - V(absent) removes O(files) as far as they are ours, and all releases that were unpacked by this module.
    type: str
    choices: [present, absent]
    default: present
  files:
    description: The files, the unit's among them.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Missing parent directories are made with mode V(0755).
        type: path
        required: true
      content:
        description:
          - The whole content. Must hold the words "Made by role fairlead.cluster.etcd", by which the file is known to
            be ours. Ignored with O(state=absent).
        type: str
        default: ""
      mode:
        description: Access rights as four octal digits in a string.
        type: str
        default: "0644"
  release:
    description: A release archive of etcd's authors, to be unpacked to a directory of its own in O(release_directory).
    type: dict
    suboptions:
      version:
        description: Version, the first part of the directory's name.
        type: str
        required: true
      url:
        description: URL of the archive, a tar file that holds the programs in one directory.
        type: str
        required: true
      sha256:
        description: SHA-256 of the archive in hexadecimal digits. Its first 12 are the rest of the directory's name.
        type: str
        required: true
  release_directory:
    description: Where releases are unpacked. Removed with the last one when nothing else is in it.
    type: path
    default: /opt/etcd
  program:
    description: The program that the unit starts, when it is not one of O(release).
    type: path
  missing_program:
    description:
      - What happens while O(program) is not there.
      - V(accept) writes the files all the same.
      - V(defer) does so only where there is no unit yet. One that is there, and leads to another program, stays as it
        is, so that a member that is stopped now would still start.
      - V(refuse) fails, and asks for O(account) too.
    type: str
    choices: [accept, defer, refuse]
    default: accept
  account:
    description: Account under which etcd runs, looked for with O(missing_program=refuse).
    type: str
    default: etcd
  unit:
    description: Name of the unit.
    type: str
    default: etcd.service
  environment_file:
    description: File with the member's configuration.
    type: path
    default: /etc/etcd/etcd.env
  data_dir:
    description: Directory of the member's data.
    type: path
    default: /var/lib/etcd
seealso:
  - module: fairlead.cluster.etcd_member
"""

EXAMPLES = r"""
- name: Install a release, and a unit that starts it
  fairlead.cluster.etcd_installation:
    release:
      version: 3.6.14
      url: https://mirror.example.org/etcd-v3.6.14-linux-amd64.tar.gz
      sha256: "{{ checksum }}"
    files:
      - path: /etc/systemd/system/etcd.service
        content: "{{ lookup('ansible.builtin.template', 'etcd.service.j2') }}"
"""

RETURN = r"""
deferred:
  description: Whether the files were left as they are, because O(program) is not there yet.
  returned: when O(state=present)
  type: bool
left:
  description: Those of O(files) that are there and were left, because they are not ours.
  returned: when O(state=absent)
  type: list
  elements: str
before:
  description: Files and releases as found.
  returned: success
  type: list
  elements: dict
after:
  description: The same after the run (check mode would be).
  returned: success
  type: list
  elements: dict
operations:
  description: One line for each change.
  returned: success
  type: list
  elements: str
left_out:
  description: Number of objects by kind that RV(before), RV(after) and RV(operations) do not show. They show the first
    100 of each.
  returned: when there are more
  type: dict
  sample: {operations: {file: 20}}
"""

from typing import IO, Any, ContextManager, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ..module_utils._ansible import result_of, run
from ..module_utils._etcd import installation
from ..module_utils._system.runner import module_runner

# Seconds that a mirror may be silent.
FETCH_TIMEOUT = 30
FILE_SPEC = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "default": ""},
    "mode": {"type": "str", "default": "0644"},
}
RELEASE_SPEC = {
    "version": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "sha256": {"type": "str", "required": True},
}
ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "files": {"type": "list", "elements": "dict", "required": True, "options": FILE_SPEC},
    "release": {"type": "dict", "options": RELEASE_SPEC},
    "release_directory": {"type": "path", "default": "/opt/etcd"},
    "program": {"type": "path"},
    "missing_program": {"type": "str", "choices": ["accept", "defer", "refuse"], "default": "accept"},
    "account": {"type": "str", "default": "etcd"},
    "unit": {"type": "str", "default": "etcd.service"},
    "environment_file": {"type": "path", "default": "/etc/etcd/etcd.env"},
    "data_dir": {"type": "path", "default": "/var/lib/etcd"},
}
HEADER = "etcd installation"


def body(module: AnsibleModule) -> Dict[str, Any]:
    runner = module_runner(module)
    if module.params["state"] == "absent":
        removed = installation.absent(module.params, module.check_mode, runner)
        return {**result_of(module, removed.outcome, HEADER), "left": removed.left}
    installed = installation.present(module.params, module.check_mode, runner, fetch)
    return {**result_of(module, installed.outcome, HEADER), "deferred": installed.deferred}


def fetch(url: str) -> ContextManager[IO[bytes]]:
    opened: ContextManager[IO[bytes]] = open_url(url, timeout=FETCH_TIMEOUT)
    return opened


def main() -> None:
    run(AnsibleModule(ARGUMENT_SPEC, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
