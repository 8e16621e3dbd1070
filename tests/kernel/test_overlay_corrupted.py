# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Hundreds of corrupted documents for the datapath: each refused by the path of a mistake, and the kernel stays as it
was, on a node with an overlay and on one without."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.corrupted import WRONG, Document, Mistake, copying, corrupted, integer, mistakes, setting
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespace, Namespaces
from tests.kernel.overlay_nodes import document, dual_document, dual_member, lone_node, snapshot

EXAMPLES = 400
PEERS = 4
BASE: Document = {
    **dual_document(1, *range(2, 2 + PEERS)),
    "backend": {
        "type": "vxlan",
        "vni": 1,
        "port": 8472,
        "mtu": 1500,
        "gbp": False,
        "learning": False,
        "direct_routing": False,
    },
    "interface": "eth0",
    "interface_regex": ["eth0"],
    "interface_can_reach": "192.0.2.9",
    "public_address": "192.0.2.1",
    "public_address6": "2001:db8::1",
    "nexthop_objects": True,
    "subnet_env": {"path": "/nonexistent/subnet.env", "ipmasq": True},
}
MEMBERS = ["node", *(f"peers[{index}]" for index in range(PEERS))]
NO_MAC = ("", "00:00:00:00:00:00", "02:00", "01:00:5e:00:00:01", 7, 0, [], {})
HALVES = ("address", "subnet", "mac", "address6", "subnet6", "mac6")
NO_INTERFACE = ("", "a" * 16, "a/b", "a b", "a:1", 7, [], {}, True)
MISTAKES = [
    *mistakes(
        {
            "network": "network",
            "network6": (*WRONG["network6"], "fd00:10:244::/125"),
            "backend": "section",
            "backend.type": ("udp", "VXLAN", "", 7, [], {}, True),
            # The device for IPv6 has the longer name.
            "backend.vni": (*integer(1, 9999999), 10000),
            "backend.port": integer(1, 65535),
            # The interface carries 1500, and IPv6 needs 1280 and what goes around a packet.
            "backend.mtu": [value for value in (*integer(118, 65535), 1501, 9000, 1349) if value not in (0,)],
            **{f"backend.{name}": "boolean" for name in ("gbp", "learning", "direct_routing")},
            "node": "section",
            "peers": (7, True, "x", {}),
            **{f"peers[{index}]": "section" for index in range(PEERS)},
            **{f"{path}.name": "name" for path in MEMBERS},
            **{f"{path}.address": "address" for path in MEMBERS},
            **{f"{path}.address6": "address6" for path in MEMBERS},
            **{f"{path}.{key}": NO_MAC for path in MEMBERS for key in ("mac", "mac6")},
            **{f"{path}.{key}": key for path in MEMBERS for key in ("subnet", "subnet6")},
            "interface": NO_INTERFACE,
            "interface_regex": ("eth0", 7, {}, True),
            "interface_regex[0]": ("(", "[", 7, [], {}),
            "interface_can_reach": ("", "host", "fd00::g", "192.0.2.300", 7, [], {}),
            "public_address": ("", "host", "fd00::1", "192.0.2.300", 7, [], {}),
            "public_address6": ("", "host", "192.0.2.1", "2001:db8::g", 7, [], {}),
            "nexthop_objects": "boolean",
            "subnet_env": "section",
            "subnet_env.path": ("relative", "", 7, [], {}),
            "subnet_env.ipmasq": "boolean",
        },
        sections=["", "backend", "subnet_env", *MEMBERS],
        required=["node", "node.name", *(f"{path}.{key}" for path in MEMBERS for key in HALVES)],
    ),
    *(
        copying(f"{MEMBERS[one]}.{key}", f"{MEMBERS[two]}.{key}")
        for two in range(PEERS + 1)
        for one in range(two)
        for key in dual_member(1)
        # A peer that is called as the node is the node, and is left out.
        if (one, key) != (0, "name")
    ),
    # Reaches into the next one.
    *(setting(f"peers[{index}].subnet", f"10.244.{index + 2}.0/23", f"peers[{index + 1}].subnet") for index in (0, 2)),
    setting("peers[3].subnet", "10.244.1.128/25"),
    setting("peers[3].subnet6", "fd00:10:244:1:8000::/65"),
]
SCRIPT = """
import json, sys
from ansible_collections.fairlead.cluster.plugins.module_utils._desired import overlay_network
from ansible_collections.fairlead.cluster.plugins.module_utils._model.errors import FairleadError
def runner(args, data=None):
    raise AssertionError(f"{args} was run")
for document in json.load(sys.stdin):
    try:
        overlay_network.converge(document, False, runner)
        print(json.dumps(["", "", "taken"]))
    except FairleadError as error:
        print(json.dumps([type(error).__name__, getattr(error, "path", ""), str(error)]))
"""


def drawn() -> list[tuple[Document, set[str]]]:
    """Each mistake alone, and several at once; the same ones in every run."""
    found = [alone(mistake) for mistake in MISTAKES]

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(corrupted(BASE, MISTAKES))
    def collect(made: tuple[Document, set[str]]) -> None:
        found.append(made)

    collect()
    return found


def alone(mistake: Mistake) -> tuple[Document, set[str]]:
    changed = copy.deepcopy(BASE)
    mistake.make(changed)
    return changed, {mistake.path}


def refusals(node: Namespace, state: Path, documents: list[Document]) -> list[list[str]]:
    environment = [f"PYTHONPATH={Path.cwd() / 'collections'}", f"FAIRLEAD_STATE_DIR={state}"]
    command = ["env", *environment, f"FAIRLEAD_RUN_DIR={state}-run", sys.executable, "-c", SCRIPT]
    done = node.run(command, data=json.dumps(documents), timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("with_overlay", [True, False], ids=["with an overlay", "without"])
def test_overlay_corrupted_documents_are_refused_and_change_nothing(
    netns: Namespaces, run_module: RunModule, state_dir: Path, with_overlay: bool
) -> None:
    node = lone_node(netns)
    if with_overlay:
        run_module("overlay_network", document(1, 2, 3), netns=node)
    made = drawn()
    assert len(made) >= len(MISTAKES) + 200
    state = state_dir / node.name
    before, saved = snapshot(node), contents(state)
    found = refusals(node, state, [changed for changed, _paths in made])
    assert snapshot(node) == before and contents(state) == saved
    wrong = [(result, paths) for result, (_document, paths) in zip(found, made, strict=True) if not fits(result, paths)]
    assert wrong == []


def fits(result: list[str], paths: set[str]) -> bool:
    kind, path, words = result
    return kind == "SpecError" and path in paths and words.startswith(f"{path}: ")


def contents(directory: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in directory.glob("*")} if directory.is_dir() else {}


def test_overlay_document_without_a_mistake_is_taken(netns: Namespaces, tmp_path: Path) -> None:
    """Else the refusals above would be worth nothing."""
    node = lone_node(netns)
    right = {**BASE, "subnet_env": {"path": str(tmp_path / "subnet.env")}}
    assert refusals(node, tmp_path / "state", [right]) == [["", "", "taken"]]
    assert node.json("ip -j link show flannel.1")
