# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Root's umask, which hardened systems set to 027 or 077, has no say in what modules make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.fairlead.cluster.plugins.plugin_utils.runtime_tree import Tree
from tests.kernel.conftest import RunModule
from tests.kernel.namespaces import Namespaces


@pytest.fixture(params=[0o027, 0o077, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path, root_dir: Path) -> Iterator[None]:
    """``tmp_path`` is made before it."""
    before = os.umask(request.param)
    try:
        yield
    finally:
        os.umask(before)


def rights_of(top: Path) -> dict[str, str]:
    """Octal rights by path; links have none of their own."""
    found = {}
    for folder, folders, names in os.walk(top):
        for path in (Path(folder, name) for name in [*folders, *names]):
            if not path.is_symlink():
                found[str(path.relative_to(top))] = f"{path.stat().st_mode & 0o7777:04o}"
    return found


@pytest.mark.usefixtures("umask")
def test_managed_files(run_module: RunModule, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir(mode=0o700)
    os.chmod(tmp_path / "top", 0o710)
    files = [
        {"path": f"{tmp_path}/top/net.d/10.conflist"},
        {"path": f"{tmp_path}/top/etcd/sub/etcd.env", "mode": "0600"},
    ]
    run_module("managed_files", {"files": files})
    assert rights_of(tmp_path / "top") == {
        "net.d": "0755", "net.d/10.conflist": "0644",
        "etcd": "0755", "etcd/sub": "0755", "etcd/sub/etcd.env": "0600",
    }  # fmt: skip
    assert f"{(tmp_path / 'top').stat().st_mode & 0o7777:04o}" == "0710", "a directory that was there keeps its rights"


@pytest.mark.usefixtures("umask")
def test_node_runtime(run_module: RunModule, tmp_path: Path) -> None:
    tree = Tree(
        "0.1.0",
        {
            "bin/fairlead": ("0755", b"#!/bin/sh\n"),
            "lib/fairlead/__init__.py": ("0644", b"NUMBER = 1\n"),
            "units/fairlead-flt.service": ("0644", b"[Install]\nWantedBy=multi-user.target\n"),
        },
    )
    archive = tmp_path / "tree.tar.gz"
    archive.write_bytes(tree.archive())
    units = [{"name": name, "content": text, "enabled": True} for name, text in tree.units.items()]
    top = tmp_path / "node"
    places = {"path": f"{top}/opt/fairlead", "command_path": f"{top}/bin/fairlead", "unit_path": f"{top}/units"}
    given = {"version": tree.version, "digest": tree.digest, "units": units, "archive": str(archive)}
    run_module("node_runtime", {**places, **given})
    rights = rights_of(top)
    directories = {path: mode for path, mode in rights.items() if (top / path).is_dir()}
    assert {"opt", "bin", "units", "opt/fairlead", "units/multi-user.target.wants"} <= set(directories)
    assert set(directories.values()) == {"0755"}
    compiled = [path for path in rights if path.endswith(".pyc")]
    assert compiled and {rights[path] for path in compiled} == {"0644"}
    assert rights[f"opt/fairlead/{tree.version}/bin/fairlead"] == "0755"


@pytest.mark.usefixtures("umask")
def test_state_directory(run_module: RunModule, netns: Namespaces, tmp_path: Path, state_dir: Path) -> None:
    node = netns("node")
    args = {"network": "10.244.0.0/16", "subnet": "10.244.1.0/24", "masquerade": False, "forward": False}
    run_module("masquerade", args, netns=node)
    assert rights_of(tmp_path / state_dir.name) == {node.name: "0755", f"{node.name}/masquerade.json": "0600"}


@pytest.mark.usefixtures("umask")
def test_subnet_env(run_module: RunModule, netns: Namespaces, tmp_path: Path) -> None:
    node = netns("node")
    node.run("ip link add u0 type bridge")
    node.run("ip address add 192.0.2.11/24 dev u0")
    node.run("ip link set u0 up")
    own = {"name": "n1", "address": "192.0.2.11", "subnet": "10.244.1.0/24", "mac": "02:5e:10:00:00:01"}
    subnet_env = {"path": f"{tmp_path}/flannel/subnet.env"}
    args = {"network": "10.244.0.0/16", "node": own, "peers": [], "subnet_env": subnet_env}
    run_module("overlay_network", args, netns=node)
    assert f"{(tmp_path / 'flannel').stat().st_mode & 0o7777:04o}" == "0755"
    assert rights_of(tmp_path / "flannel") == {"subnet.env": "0644"}
